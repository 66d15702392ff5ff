"""Our decoder against transformers' Llama: logits and gradients in fp32, files both ways.

Tolerance 1e-5 absolute and relative: both compute in fp32 with other summation orders.
"""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from llmtools.model import Decoder, PackedRows, load_model, save_model

TOLERANCE = 1e-5
SHAPES = {
    "grouped heads": {"num_attention_heads": 6, "num_key_value_heads": 2},
    "own head size": {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16},
    "tied head": {"num_attention_heads": 4, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "biases and theta": {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"},
        "rms_norm_eps": 1e-5,
    },
}


def peer(shape: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=101, hidden_size=48, intermediate_size=64, num_hidden_layers=3,
        max_position_embeddings=64, initializer_range=0.2, **SHAPES[shape],
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return model


def load_ours(model: LlamaForCausalLM, folder) -> Decoder:
    model.save_pretrained(folder)
    return load_model(folder)


def compare(ours: Decoder, theirs: LlamaForCausalLM, lengths: list[int]) -> None:
    """Logits and every weight's gradient of the mean loss, over documents of these lengths."""
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(0, 101, (n,), generator=generator) for n in lengths]
    labels = [torch.cat([d[1:], torch.tensor([-100])]) for d in documents]
    ids, flat_labels = torch.cat(documents), torch.cat(labels)
    num_labels = int((flat_labels != -100).sum())

    expected = torch.cat([theirs(d[None]).logits[0] for d in documents])
    context = PackedRows(lengths)
    logits = ours.logits(ours(ids, context))
    torch.testing.assert_close(logits, expected, rtol=TOLERANCE, atol=TOLERANCE)

    loss = torch.nn.functional.cross_entropy(expected, flat_labels)
    loss.backward()
    (ours.loss(ids, flat_labels, context) / num_labels).backward()
    named = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(
            named[name].grad, parameter.grad, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda m: f"{m}"
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_gradients_equal_transformers(shape, tmp_path):
    theirs = peer(shape)
    compare(load_ours(theirs, tmp_path), theirs, [17, 17])
    theirs.zero_grad()
    compare(load_ours(theirs, tmp_path), theirs, [5, 30, 1, 12])


@pytest.mark.parametrize("flaw", ["rope theta", "norm eps", "document boundary"])
def test_the_check_rejects_a_flawed_model(flaw, tmp_path):
    theirs = peer("biases and theta")
    ours = load_ours(theirs, tmp_path)
    if flaw == "rope theta":
        object.__setattr__(ours.config, "rope_theta", 4.9e5)
    elif flaw == "norm eps":
        ours.model.norm.eps = 1e-2
    else:
        original = PackedRows.attend
        shifted = [6, 11]

        def attend(self, layer, q, k, v):
            self.lengths = shifted
            return original(self, layer, q, k, v)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(AssertionError):
            patch.setattr(PackedRows, "attend", attend)
            compare(ours, theirs, [5, 12])
        return
    with pytest.raises(AssertionError):
        compare(ours, theirs, [20])


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_loads_what_we_save(shape, tmp_path):
    theirs = peer(shape)
    ours = load_ours(theirs, tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    save_model(tmp_path / "ours", ours)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, theirs(ids).logits)
