"""A tiny random chat model in a directory, and conversations to fine-tune it on."""

from __future__ import annotations

import json
from pathlib import Path

from llmtools.model import Decoder, config_from_hf, save_model
from tiny_packed import CONFIG
from toy_tokenizer import toy_tokenizer

CITIES = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Austria": "Vienna"}


def save_base(directory: Path, **changes: object) -> Path:
    """Config, weights and tokenizer; the tokenizer has ChatML's tokens and no template."""
    tokenizer = toy_tokenizer()
    values = CONFIG | {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 128} | changes
    decoder = Decoder(config_from_hf(values, "test"))
    decoder.initialize(seed=3)
    directory.mkdir()
    save_model(directory, decoder)
    tokenizer.save(directory)
    return directory


def write_chats(path: Path, copies: int = 4) -> Path:
    """Questions of different lengths with their answers."""
    chats = [
        {
            "messages": [
                {"role": "user", "content": "Please, " * n + f"what is the capital of {country}?"},
                {"role": "assistant", "content": f"{city}." * (n + 1)},
            ]
        }
        for n in range(copies)
        for country, city in CITIES.items()
    ]
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    return path
