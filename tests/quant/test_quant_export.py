"""What `llm quantize` writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmtools.errors import InputError
from llmtools.formats.gguf import GGUFFile
from llmtools.quant.gguf_export import export_gguf
from llmtools.quant.rtn import stored_type
from tiny_llama import TEMPLATE, save_tiny_llama


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny_llama(tmp_path / "model")


def test_the_scheme_decides_the_types(model: Path, tmp_path: Path) -> None:
    export = export_gguf(model, str(tmp_path / "a.gguf"), "Q4_0")
    file = GGUFFile(tmp_path / "a.gguf")
    types = {name: tensor.type_name for name, tensor in file.tensors.items()}
    assert types["token_embd.weight"] == types["output.weight"] == "Q8_0"
    assert types["blk.1.attn_q.weight"] == types["blk.0.ffn_down.weight"] == "Q4_0"
    assert types["blk.0.attn_norm.weight"] == types["output_norm.weight"] == "F32"
    assert export.types == {"Q8_0": 2, "Q4_0": 14, "F32": 5}
    assert export.bytes_after == (tmp_path / "a.gguf").stat().st_size
    assert export.num_parameters == sum(v.numel() for v in load_file(_weights(model)).values())
    assert file.metadata["general.file_type"] == 2
    assert file.metadata["llama.attention.head_count_kv"] == 2
    assert file.metadata["llama.rope.freq_base"] == 50000.0


def _weights(model: Path) -> Path:
    return model / "model.safetensors"


def test_the_vocabulary_travels_whole(model: Path, tmp_path: Path) -> None:
    export_gguf(model, str(tmp_path / "a.gguf"), "Q8_0")
    metadata = GGUFFile(tmp_path / "a.gguf").metadata
    text = (model / "tokenizer.json").read_text("utf-8")
    tokenizer = json.loads(text)
    assert metadata["tokenizer.huggingface.json"] == text
    assert metadata["tokenizer.ggml.model"] == "gpt2"
    assert metadata["tokenizer.ggml.pre"] == "gpt-2"
    tokens = metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == 320
    assert {t: i for i, t in enumerate(tokens[:300])} == tokenizer["model"]["vocab"]
    assert metadata["tokenizer.ggml.token_type"].tolist() == [3, 3] + [1] * 298 + [5] * 20
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    assert metadata["tokenizer.ggml.merges"] == merges
    assert metadata["tokenizer.ggml.bos_token_id"] == 0
    assert metadata["tokenizer.ggml.eos_token_id"] == 1
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["tokenizer.chat_template"] == TEMPLATE


def test_rows_that_are_not_whole_blocks_stay_f16(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny_llama(tmp_path / "model", intermediate_size=90)
    export = export_gguf(model, str(tmp_path / "a.gguf"), "Q8_0")
    assert export.types["F16"] == 2
    assert "2 matrices stay F16" in capsys.readouterr().err
    assert stored_type("blk.0.ffn_down.weight", (64, 90), "Q4_0") == "F16"


def test_a_gguf_is_quantized_again_with_its_metadata(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_gguf(model, str(tmp_path / "f16.gguf"), "F16")
    export_gguf(model, str(tmp_path / "direct.gguf"), "Q4_0")
    export_gguf(tmp_path / "f16.gguf", str(tmp_path / "again.gguf"), "Q4_0")
    assert capsys.readouterr().err == ""
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "direct.gguf").read_bytes()
    export_gguf(tmp_path / "again.gguf", str(tmp_path / "same.gguf"), "Q4_0")
    assert (tmp_path / "same.gguf").read_bytes() == (tmp_path / "direct.gguf").read_bytes()
    export_gguf(tmp_path / "direct.gguf", str(tmp_path / "up.gguf"), "Q8_0")
    assert "quantized already" in capsys.readouterr().err


def test_bf16_weights_are_read(model: Path, tmp_path: Path) -> None:
    weights = {k: v.bfloat16() for k, v in load_file(_weights(model)).items()}
    save_file(weights, _weights(model), metadata={"format": "pt"})
    export_gguf(model, str(tmp_path / "a.gguf"), "F16")
    got = GGUFFile(tmp_path / "a.gguf").load("blk.0.ffn_up.weight")
    want = weights["model.layers.0.mlp.up_proj.weight"].float().numpy()
    assert np.array_equal(got, want)


def test_what_does_not_fit_leaves_no_file(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.gguf"
    weights = load_file(_weights(model))
    name = "model.layers.0.mlp.up_proj.weight"

    def refused(changed: dict[str, torch.Tensor], reason: str) -> None:
        save_file(changed, _weights(model), metadata={"format": "pt"})
        with pytest.raises(InputError, match=reason):
            export_gguf(model, str(out), "Q8_0")
        assert not list(tmp_path.glob("*.gguf*"))

    refused({k: v for k, v in weights.items() if k != name}, "no weight")
    refused(weights | {name: weights[name][:5].clone()}, "shape")
    refused(weights | {name: weights[name] * torch.nan}, "NaN")
    refused(weights | {name: weights[name].to(torch.int32)}, "I32")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, "Unigram"),
        ({"model": {"type": "BPE", "vocab": {"a": 5000}, "merges": []}}, "vocab_size"),
        ({"model": {"type": "BPE", "vocab": {"a": "b"}, "merges": []}}, "whole number"),
        ({"added_tokens": [{"content": "x"}]}, "known form"),
        ({"model": 3}, "byte-level BPE"),
    ],
)
def test_a_tokenizer_that_cannot_be_written_is_named(
    model: Path, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    path = model / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change))
    with pytest.raises(InputError, match=reason):
        export_gguf(model, str(tmp_path / "a.gguf"), "F16")


def test_an_adapter_is_not_a_whole_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="adapter"):
        export_gguf(tmp_path, str(tmp_path / "a.gguf"), "F16")
