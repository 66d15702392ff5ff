"""llama.cpp's golden token ids, exactly; they were made with each model's original tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtools.formats.gguf import GGUFFile
from llmtools.tokenizer import gguf_vocab
from llmtools.tokenizer.load import load_tokenizer
from llmtools.tokenizer.tokenizer import SpecialRoles, Tokenizer

pytestmark = pytest.mark.network

VOCABULARIES = ("gpt-2", "llama-bpe", "qwen2", "starcoder", "refact", "command-r")


def golden_cases(vocabulary: Path) -> list[tuple[str, list[int]]]:
    texts = Path(f"{vocabulary}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{vocabulary}.out").read_text().split("\n")
    return [(t, [int(n) for n in line.split()]) for t, line in zip(texts, lines, strict=True)]


def num_wrong(tokenizer: Tokenizer, cases: list[tuple[str, list[int]]]) -> int:
    return sum(tokenizer.encode(text) != ids for text, ids in cases)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_ids_equal_the_golden_ones(llama_cpp_models: Path, name: str) -> None:
    vocabulary = llama_cpp_models / f"ggml-vocab-{name}.gguf"
    cases = golden_cases(vocabulary)
    assert len(cases) == 47
    assert num_wrong(load_tokenizer(vocabulary), cases) == 0


@pytest.mark.parametrize(
    ("name", "other"), [("gpt-2", "smollm"), ("starcoder", "gpt-2"), ("qwen2", "gpt-2")]
)
def test_the_golden_ids_reject_another_split_rule(
    llama_cpp_models: Path, name: str, other: str
) -> None:
    vocabulary = llama_cpp_models / f"ggml-vocab-{name}.gguf"
    metadata = {**GGUFFile(vocabulary).metadata, "tokenizer.ggml.pre": other}
    broken = Tokenizer(gguf_vocab.tokenizer_json(metadata, "broken"), SpecialRoles())
    assert num_wrong(broken, golden_cases(vocabulary)) > 0
