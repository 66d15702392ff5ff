"""A long text in pieces encodes to what the whole encodes to."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from llmtools.tokenizer import pieces
from llmtools.tokenizer.pieces import can_be_cut, cut
from llmtools.tokenizer.train import TRAIN_PATTERNS
from toy_tokenizer import toy_tokenizer

PARTS = [
    *" \t\n\r'.,-_0123456789aAbzé\u0301ß中文🙂\u00a0\u200f\u202e\0",
    " the", " a", "don't", " we'LL ", " of", "  ", "\n\n", " <|endoftext|> ", "e\u0301", " \u0301a",
]  # fmt: skip


def random_text(seed: int, count: int = 400) -> str:
    source = random.Random(seed)
    return "".join(source.choices(PARTS, k=count))


@pytest.mark.parametrize("pattern", ["gpt2", *TRAIN_PATTERNS])
@pytest.mark.parametrize("parse_special", [False, True])
def test_pieces_encode_to_the_ids_of_the_whole(pattern, parse_special, monkeypatch):
    tokenizer = toy_tokenizer(pattern)
    texts = [random_text(seed) for seed in range(30)]
    whole = tokenizer.encode_batch(texts, parse_special=parse_special)
    monkeypatch.setattr("llmtools.tokenizer.tokenizer.PIECE_CHARS", 20)
    monkeypatch.setattr(pieces.cut, "__defaults__", (20,))
    assert min(len(tokenizer.pieces(text)) for text in texts) >= 3
    in_pieces = tokenizer.encode_batch(texts, parse_special=parse_special)
    assert all(map(np.array_equal, in_pieces, whole))
    # Cut anywhere, they are not the same.
    monkeypatch.setattr("llmtools.tokenizer.tokenizer.cut", lambda text: [text[:37], text[37:]])
    anywhere = tokenizer.encode_batch(texts, parse_special=parse_special)
    assert not all(map(np.array_equal, anywhere, whole))


def test_a_text_is_cut_between_letters_and_spaces_alone():
    text = "ab cd. ef gh1 i\n jk lm"
    assert cut(text, 1) == ["ab", " cd. ef", " gh1 i\n jk", " lm"]
    assert cut("x" * 100, 10) == ["x" * 100]
    assert cut("", 10) == [""]
    for seed in range(20):
        assert "".join(cut(random_text(seed), 7)) == random_text(seed)


def test_rules_that_look_at_the_start_of_a_text_are_never_cut():
    values = json.loads(toy_tokenizer().to_json())
    assert can_be_cut(values)
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    token = values["added_tokens"][0]
    for change in (
        {"normalizer": {"type": "Prepend", "prepend": "▁"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}},
        {"pre_tokenizer": level},
        {"pre_tokenizer": level | {"add_prefix_space": False, "use_regex": False}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}},
        {"added_tokens": [token | {"content": "a b"}]},
        {"added_tokens": [token | {"content": "word", "rstrip": True}]},
    ):
        assert not can_be_cut(values | change), change
