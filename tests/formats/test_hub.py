"""hf:ORG/NAME: from the cache without a network, and clear words where it is not there."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

from llmtools.errors import UsageError
from llmtools.formats.hub import fetch
from support import LLM, assert_user_error, run_llm
from tiny_llama import save_tiny_llama


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    """A cache as huggingface_hub lays it out, with one model at two revisions."""
    repo = tmp_path / "hub" / "models--org--tiny"
    for commit, seed in (("a" * 40, 0), ("b" * 40, 1)):
        snapshot = repo / "snapshots" / commit
        snapshot.mkdir(parents=True)
        save_tiny_llama(snapshot, initializer_range=0.1 * (1 + seed))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    return {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}


def test_a_model_in_the_cache_is_used_offline(cache: dict[str, str], tmp_path: Path) -> None:
    def text(model: str) -> bytes:
        flags = ("--offline", "--max-tokens", "8", "--device", "cpu")
        return run_llm("generate", model, "The", *flags, env=cache).stdout

    assert text("hf:org/tiny") == text(f"hf:org/tiny@{'a' * 40}")
    assert text("hf:org/tiny") != text(f"hf:org/tiny@{'b' * 40}")
    (tmp_path / "d.jsonl").write_text('{"text": "The fox"}\n')
    out = tmp_path / "t.safetensors"
    run_llm(
        "tokenize", tmp_path / "d.jsonl", "-t", "hf:org/tiny", "--offline", "-o", out, env=cache
    )


def test_a_model_that_is_not_there_is_exit_4_and_says_why(cache: dict[str, str]) -> None:
    done = run_llm("generate", "hf:org/other", "x", "--offline", env=cache, check=False)
    assert_user_error(done, 4, "hf:org/other", "--offline")


@pytest.mark.parametrize("name", ["hf:", "hf:tiny", "hf:a/b/c", "hf:a/../b", "hf:org/x@"])
def test_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="hf:ORG/NAME"):
        fetch(name)


def test_a_terminal_without_input_gets_examples_and_exit_2() -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run([*LLM, "dedup"], stdin=theirs, capture_output=True)
    finally:
        os.close(ours)
        os.close(theirs)
    assert_user_error(done, 2, "no input", "llm dedup crawl.jsonl.zst -o unique.jsonl.zst")
