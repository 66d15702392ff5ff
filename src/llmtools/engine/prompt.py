"""Prompts to token ids."""

from __future__ import annotations

import json
from collections.abc import Sequence

from llmtools.errors import InputError
from llmtools.tokenizer.chat import Message
from llmtools.tokenizer.tokenizer import Tokenizer


def encode_prompt(tokenizer: Tokenizer, prompt: str | Sequence[Message]) -> list[int]:
    """Ids of a text or of a conversation; raises like the two below."""
    if isinstance(prompt, str):
        return encode_text(tokenizer, prompt)
    return encode_messages(tokenizer, prompt)


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a plain prompt: one BOS in front where the tokenizer itself puts it.

    Special tokens written out in it are those tokens, because who writes a prompt may write its
    template too. raises: InputError for text that is not Unicode.
    """
    _check_unicode(text)
    ids = tokenizer.encode(text, parse_special=True)
    if tokenizer.adds_bos and ids[:1] != [tokenizer.bos_id]:
        assert tokenizer.bos_id is not None
        ids = [tokenizer.bos_id, *ids]
    return ids


def encode_messages(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of a conversation up to where the assistant's answer begins.

    Special tokens inside messages are plain text. raises: InputError when the tokenizer has no chat
    template, or it refuses the conversation.
    """
    if not messages:
        raise InputError("messages is empty; a conversation has at least one message")
    _check_unicode(json.dumps(messages, ensure_ascii=False))
    return tokenizer.encode_chat(messages, add_generation_prompt=True)


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as fault:
        raise InputError(
            f"the prompt is not Unicode text: half of a surrogate pair, or a byte that is not"
            f" UTF-8, at character {fault.start}"
        ) from fault
