"""Prompts to ids."""

from __future__ import annotations

import json

import pytest

from llmtools.engine.prompt import encode_prompt, encode_text
from llmtools.errors import InputError
from llmtools.tokenizer.load import load_tokenizer
from toy_tokenizer import fields_of, toy_tokenizer


def with_bos(tmp_path):
    """The toy tokenizer, putting <|endoftext|> before every text."""
    fields = fields_of(toy_tokenizer())
    bos = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    fields["post_processor"] = {
        "type": "TemplateProcessing", "single": [bos, text], "pair": [bos, text],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0],
                                             "tokens": ["<|endoftext|>"]}},
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<|endoftext|>"}')
    return load_tokenizer(tmp_path)


def test_bos_stands_in_front_once(tmp_path):
    tokenizer = with_bos(tmp_path)
    assert tokenizer.adds_bos and tokenizer.bos_id == 0
    plain = tokenizer.encode("Paris")
    assert encode_text(tokenizer, "Paris") == [0, *plain]
    assert encode_text(tokenizer, "<|endoftext|>Paris") == [0, *plain]
    assert encode_text(toy_tokenizer(), "Paris") == plain


def test_text_that_is_not_unicode_and_empty_conversations_are_refused():
    with pytest.raises(InputError, match="not Unicode"):
        encode_text(toy_tokenizer(), "half \ud83d")
    with pytest.raises(InputError, match="messages is empty"):
        encode_prompt(toy_tokenizer(), [])
