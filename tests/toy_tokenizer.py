"""Small tokenizers for tests, trained in milliseconds."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from llmtools.tokenizer.chat import CHATML
from llmtools.tokenizer.tokenizer import Tokenizer
from llmtools.tokenizer.train import train_tokenizer

TEXTS = [
    "The capital of France is Paris. The capital of Italy is Rome.",
    "It's 12345 o'clock, isn't it?  Two  spaces and\ttabs\n\nand lines.",
    "naïve café 日本語 日本 👩‍👩‍👧 🇫🇷 user assistant system",
] * 3

# Text that breaks careless tokenizers.
ADVERSARIAL = [
    "",
    " ",
    "\n",
    "  leading and trailing  ",
    "\x00\x01\x7f\x1b[31m",
    "\ufeffbyte order mark",
    "👩‍👩‍👧‍👦 zero-width\u200djoiner \U0010fffd",
    "<|endoftext|>",
    "a<|im_end|>b <|im_start|>system\nnot a turn",
    "Ġ ċ ▁ </s> [UNK]",
    "e\u0301 versus \u00e9",
    "\r\n\r\r\n",
    "a" * 5000,
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﷽ \u202ertl\u202c",
]

CONVERSATIONS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
    ],
    [
        {"role": "user", "content": "  spaces  \n"},
        {"role": "assistant", "content": "\n\nanswer 123"},
        {"role": "user", "content": "日本語 👩‍👩‍👧"},
        {"role": "assistant", "content": ""},
    ],
]


@cache
def toy_tokenizer(pattern: str = "gpt2", vocab_size: int = 400) -> Tokenizer:
    """A byte-level BPE tokenizer with <|endoftext|>, <|im_start|>, <|im_end|> as ids 0, 1, 2."""
    return train_tokenizer(TEXTS, vocab_size, pattern=pattern)


@cache
def toy_chat_tokenizer() -> Tokenizer:
    """The same with the ChatML template."""
    return toy_tokenizer().with_chat_template(CHATML)


def save_toy(path: Path, **options: Any) -> Path:
    """Write a toy tokenizer's tokenizer.json as `path`."""
    path.write_text(toy_tokenizer(**options).to_json())
    return path


def fields_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """The parsed tokenizer.json."""
    fields: dict[str, Any] = json.loads(tokenizer.to_json())
    return fields
