"""transformers loads our GGUF and computes what the weights we meant to store compute.

The reference is the original directory with every matrix rounded by the `gguf` package. Tolerance:
1e-6 of the largest logit, since equal weights may differ only by the rounding of sums.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaForCausalLM

from llmtools.formats.gguf import GGUFFile
from llmtools.formats.gguf_names import permute_qk
from llmtools.formats.gguf_writer import TensorSource, write_gguf
from llmtools.quant.gguf_export import export_gguf
from llmtools.quant.rtn import SCHEMES, Scheme
from tiny_llama import TEXT, save_tiny_llama

TOLERANCE = 1e-6
IDS = torch.arange(3, 53).reshape(1, 50)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(IDS).logits
    return out


def rounded(values: torch.Tensor, type_name: str) -> torch.Tensor:
    """A matrix rounded to a stored type by the peer."""
    kind = gguf.GGMLQuantizationType[type_name]
    return torch.from_numpy(gguf.dequantize(gguf.quantize(values.numpy(), kind), kind))


def difference(model: Path, file: Path, scheme: Scheme) -> float:
    """Largest difference of logits, relative to the largest logit."""
    reference = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    for name, weight in reference.named_parameters():
        if weight.ndim == 2:
            is_outer = name in ("model.embed_tokens.weight", "lm_head.weight")
            kind = "Q8_0" if scheme == "Q4_0" and is_outer else scheme
            weight.data = rounded(weight.data, kind)
    want = logits(reference)
    loaded = LlamaForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return float((want - logits(loaded)).abs().max() / want.abs().max())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("is_tied", [False, True])
def test_transformers_computes_the_same_from_our_file(
    tmp_path: Path, scheme: Scheme, is_tied: bool
) -> None:
    model = save_tiny_llama(tmp_path / "model", tie_word_embeddings=is_tied)
    out = tmp_path / "out.gguf"
    export_gguf(model, str(out), scheme)
    assert ("output.weight" in GGUFFile(out).tensors) is not is_tied
    assert difference(model, out, scheme) <= TOLERANCE


def test_the_check_rejects_unpermuted_queries_and_a_wrong_scale(tmp_path: Path) -> None:
    model = save_tiny_llama(tmp_path / "model")
    export_gguf(model, str(tmp_path / "good.gguf"), "F16")
    good = GGUFFile(tmp_path / "good.gguf")

    def broken(name: str) -> np.ndarray:
        values = good.load(name)
        return permute_qk(values, 4) if ".attn_q." in name else values

    def scaled(name: str) -> np.ndarray:
        return good.load(name) * np.float32(1.001 if "ffn_down" in name else 1)

    for twin in (broken, scaled):
        sources = [
            TensorSource(t.name, t.shape, t.type_name, lambda name=t.name, twin=twin: twin(name))
            for t in good.tensors.values()
        ]
        write_gguf(str(tmp_path / "bad.gguf"), good.metadata, sources, force=True)
        assert difference(model, tmp_path / "bad.gguf", "F16") > 10 * TOLERANCE


def test_transformers_reads_our_vocabulary(tmp_path: Path) -> None:

    model = save_tiny_llama(tmp_path / "model")
    export_gguf(model, str(tmp_path / "out.gguf"), "F16")
    peer = AutoTokenizer.from_pretrained(tmp_path, gguf_file="out.gguf")
    ours = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert peer(TEXT, add_special_tokens=False)["input_ids"] == ours.encode(TEXT).ids
    assert (peer.bos_token, peer.eos_token) == ("<s>", "</s>")
