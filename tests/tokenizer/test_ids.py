"""Tokenizer files whose ids cannot be what they say are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support import assert_user_error, run_llm
from toy_tokenizer import fields_of, toy_tokenizer

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def tokenize(folder: Path, fields: dict[str, Any]) -> Any:
    (folder / "broken.json").write_text(json.dumps(fields))
    return run_llm(
        *("tokenize", "-t", folder / "broken.json", "--format", "jsonl"),
        stdin=b'{"text": "the cat"}\n',
        check=False,
    )


def test_two_tokens_with_one_id(tmp_path: Path) -> None:
    fields = fields_of(toy_tokenizer())
    fields["model"]["vocab"]["the"] = fields["model"]["vocab"]["a"]
    assert_user_error(tokenize(tmp_path, fields), 3, "broken.json", "the same id")


@pytest.mark.parametrize("id", [100_000, 2**32 - 1])
def test_a_hole_in_the_ids(tmp_path: Path, id: int) -> None:
    fields = fields_of(toy_tokenizer())
    fields["model"]["vocab"]["qqqq"] = id
    assert_user_error(tokenize(tmp_path, fields), 3, "broken.json", f"ids up to {id}")


def test_an_added_token_with_an_id_that_is_taken(tmp_path: Path) -> None:
    fields = fields_of(toy_tokenizer())
    fields["added_tokens"].append({"id": 10, "content": "<x>", "special": True, **FLAGS})
    assert_user_error(tokenize(tmp_path, fields), 3, "broken.json", "'<x>' has id 10")


def test_a_merge_that_names_no_token(tmp_path: Path) -> None:
    fields = fields_of(toy_tokenizer())
    fields["model"]["merges"].append(["a", "nowhere"])
    assert_user_error(tokenize(tmp_path, fields), 3, "broken.json", "nowhere")


def test_a_kind_that_is_not_known(tmp_path: Path) -> None:
    fields = fields_of(toy_tokenizer())
    fields["model"]["type"] = "Other"
    assert_user_error(tokenize(tmp_path, fields), 3, "broken.json", "not a tokenizer.json")


def test_plain_text_on_stdin_is_one_document(tmp_path: Path) -> None:
    toy_tokenizer().save(tmp_path)
    done = run_llm("tokenize", "-t", tmp_path, "--format", "jsonl", "--no-eos", stdin=b"hi\nyou\n")
    assert json.loads(done.stdout) == {
        "id": "stdin.txt",
        "ids": toy_tokenizer().encode("hi\nyou\n"),
    }
    assert b"plain text" in done.stderr


def test_a_lone_surrogate_is_refused_by_its_line(tmp_path: Path) -> None:
    toy_tokenizer().save(tmp_path)
    lines = b'{"text": "fine"}\n{"text": "a \\ud800 b"}\n'
    done = run_llm("tokenize", "-t", tmp_path, "--format", "jsonl", stdin=lines, check=False)
    assert_user_error(done, 3, "<stdin>:2", "surrogate")
