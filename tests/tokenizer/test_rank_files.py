"""tiktoken's rank files and GPT-2's pair of files: one identity with their originals."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from llmtools.errors import InputError
from llmtools.tokenizer.export import tiktoken_ranks
from llmtools.tokenizer.load import load_tokenizer
from llmtools.tokenizer.tokenizer import Tokenizer
from llmtools.tokenizer.train import train_tokenizer
from support import assert_user_error, run_llm
from toy_tokenizer import ADVERSARIAL, TEXTS, fields_of


def plain(pattern: str = "gpt4") -> Tokenizer:
    return train_tokenizer(TEXTS, 380, pattern=pattern, special_tokens=[])


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", "llama3"])
def test_ranks_give_back_the_tokenizer_they_were_made_from(tmp_path: Path, pattern: str) -> None:
    tokenizer = plain(pattern)
    path = tmp_path / f"toy.{pattern}.tiktoken"
    path.write_bytes(tiktoken_ranks(tokenizer))
    loaded = load_tokenizer(path)
    assert loaded.identity == tokenizer.identity
    assert [loaded.encode(t) for t in ADVERSARIAL] == [tokenizer.encode(t) for t in ADVERSARIAL]


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_the_pair_of_files_has_the_identity_of_the_whole(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    tokenizer = plain("gpt2")
    model = fields_of(tokenizer)["model"]
    (tmp_path / names[0]).write_text(json.dumps(model["vocab"]))
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (tmp_path / names[1]).write_text("#version: 0.2\n" + merges)
    assert load_tokenizer(tmp_path).identity == tokenizer.identity
    (tmp_path / names[1]).write_text(merges + "a zzz\n")
    with pytest.raises(InputError, match="no tokens"):
        load_tokenizer(tmp_path)
    (tmp_path / names[0]).write_text(json.dumps({"a": 0, "b": 2}))
    with pytest.raises(InputError, match="holes"):
        load_tokenizer(tmp_path)
    (tmp_path / names[0]).write_text('{"a": 0, "a": 1}')
    with pytest.raises(InputError, match="twice"):
        load_tokenizer(tmp_path)


def encoded(token: bytes, rank: int) -> bytes:
    return base64.b64encode(token) + b" %d\n" % rank


@pytest.mark.parametrize(
    ("name", "tail", "mention"),
    [
        ("t.gpt4.tiktoken", b"!!!! 256\n", ":257: not a token"),
        ("t.gpt4.tiktoken", b"abc 256\n", ":257: not base64"),
        ("t.gpt4.tiktoken", b"abcd 99999999999\n", "no token id"),
        ("t.gpt4.tiktoken", encoded(b"a", 256), "twice"),
        ("t.gpt4.tiktoken", encoded(b"aa", 7), "same rank"),
        ("t.tiktoken", encoded(b"aa", 256), "mine.gpt4.tiktoken"),
        ("cl100k_base.tiktoken", encoded(b"aa", 256), "cut short"),
    ],
)
def test_damaged_ranks_are_refused(tmp_path: Path, name: str, tail: bytes, mention: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"".join(encoded(bytes([byte]), byte) for byte in range(256)) + tail)
    with pytest.raises(InputError, match=mention):
        load_tokenizer(path)


def test_a_byte_without_a_rank_is_one_message_of_the_program(tmp_path: Path) -> None:
    path = tmp_path / "t.gpt4.tiktoken"
    path.write_bytes(b"".join(encoded(bytes([byte]), byte) for byte in range(200)))
    done = run_llm("tokenize", "-t", path, stdin=b'{"text": "a"}\n', check=False)
    assert_user_error(done, 3, "56 of the 256 bytes")


def test_ranks_behind_special_tokens_are_refused_with_the_reason(tmp_path: Path) -> None:
    """As `llm tokenizer train --export tiktoken` writes them where there are special tokens."""
    path = tmp_path / "t.gpt4.tiktoken"
    path.write_bytes(b"".join(encoded(bytes([byte]), 3 + byte) for byte in range(256)))
    with pytest.raises(InputError, match=r"begin at 3.*special tokens.*tokenizer\.json"):
        load_tokenizer(path)
