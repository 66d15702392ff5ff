"""`llm quantize` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmtools.formats.gguf import GGUFFile
from support import assert_user_error, run_llm
from tiny_llama import TEXT, save_tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("quantize") / "model")


def test_a_run_is_quantized_with_a_report_and_a_manifest(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "step-000005").symlink_to(model)
    (run / "latest").write_text("step-000005")
    out = tmp_path / "out.gguf"
    done = run_llm("quantize", run, "--method", "rtn", "--scheme", "Q8_0", "-o", out, "--json")
    summary = json.loads(done.stdout)
    assert summary["bytes_after"] == out.stat().st_size
    assert summary["bytes_before"] == 2 * summary["parameters"]
    assert 8.5 <= summary["bits_per_weight"] < 9
    manifest = json.loads((tmp_path / "out.gguf.manifest.json").read_bytes())
    assert manifest["settings"]["scheme"] == "Q8_0"
    assert {Path(i["path"]).name for i in manifest["inputs"]} >= {"config.json", "tokenizer.json"}
    assert manifest["outputs"][0]["bytes"] == out.stat().st_size
    text = run_llm("quantize", run, "-o", tmp_path / "again.gguf").stderr.decode()
    assert "bits a weight" in text
    assert (tmp_path / "again.gguf").read_bytes() == out.read_bytes()


def test_a_model_may_be_piped(model: Path, tmp_path: Path) -> None:
    done = run_llm("quantize", model, "--scheme", "Q4_0", "-o", "-")
    (tmp_path / "piped.gguf").write_bytes(done.stdout)
    assert GGUFFile(tmp_path / "piped.gguf").metadata["general.file_type"] == 2


def test_bad_requests_are_refused_before_any_work(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_text("mine")

    def refused(code: int, *args: str | Path) -> None:
        *args, mention = args
        assert_user_error(run_llm("quantize", *args, check=False), code, str(mention))

    refused(2, model, "-o", out, "-f")
    refused(2, model, "-o", tmp_path, "is a directory")
    refused(2, model, "--scheme", "Q9_9", "-o", tmp_path / "b.gguf", "Q9_9")
    refused(2, model, "--limit-tokens", "5", "-o", tmp_path / "b.gguf", "--documents")
    refused(2, model, "-o", "-", "--json", "-o FILE")
    refused(3, tmp_path / "absent", "-o", tmp_path / "b.gguf", "no such model")
    refused(3, model, "--documents", tmp_path / "none", "-o", tmp_path / "b.gguf", "none")
    assert out.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]


def test_perplexity_is_shown_before_and_after(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("llmtools.engine.score")
    documents = tmp_path / "held-out.jsonl"
    documents.write_text(json.dumps({"id": "1", "text": TEXT}) + "\n")
    args = ("--documents", documents, "--limit-tokens", "40", "--device", "cpu")
    done = run_llm("quantize", model, *args, "-o", tmp_path / "out.gguf", "--json")
    summary = json.loads(done.stdout)
    before, after = summary["before"], summary["after"]
    assert before["tokens"] == after["tokens"] <= 40
    assert after["perplexity"] == pytest.approx(before["perplexity"], rel=0.05)
    assert after["perplexity"] != before["perplexity"]


@pytest.mark.network
def test_smollm2_is_requantized_within_its_rounding(smollm2_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "q8.gguf"
    done = run_llm("quantize", smollm2_gguf, "--scheme", "Q8_0", "-o", out, "--json")
    assert json.loads(done.stdout)["parameters"] == 134515008
    assert "210 tensors" in done.stderr.decode()
    source, result = GGUFFile(smollm2_gguf), GGUFFile(out)
    assert result.metadata.keys() - source.metadata.keys() == {"llmtools.manifest"}
    assert result.metadata["tokenizer.ggml.merges"] == source.metadata["tokenizer.ggml.merges"]
    for name in ("token_embd.weight", "blk.7.attn_norm.weight"):
        assert result.raw(name).tobytes() == source.raw(name).tobytes()
    name = "blk.7.ffn_down.weight"
    blocks = source.load(name).reshape(-1, 32)
    error = np.abs(result.load(name).reshape(-1, 32) - blocks).max(axis=1)
    # Half a step, and the step itself is kept in 11 bits.
    assert (error <= np.abs(blocks).max(axis=1) / 127 * (0.5 + 127 / 2048)).all()
