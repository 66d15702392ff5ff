"""Perplexity against transformers: the model's own loss, and a number known for SmolLM2."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from support import run_llm
from tiny_llama import TEXT, save_tiny_llama

# Both sum a few hundred fp32 losses, in another order.
TOLERANCE = 1e-5
# The mean loss of the first 512 tokens of tinyshakespeare: transformers on the same file
# dequantised to fp32. A cent of the tolerance is what the two disagree by.
SMOLLM2_NLL, SMOLLM2_TOLERANCE = 3.58553, 2e-3


def our_nll(model, document, *flags) -> float:
    done = run_llm(
        "eval", model, "--tasks", "perplexity", "--documents", document, "--json", *flags
    )
    return json.loads(done.stdout)["results"]["perplexity"]["nll_per_token"]


def transformers_nll(model, ids: torch.Tensor) -> float:
    with torch.no_grad():
        return model(ids[None], labels=ids[None]).loss.item()


def test_one_window_equals_transformers_loss(tmp_path):
    save_tiny_llama(tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = torch.tensor(tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    ids = ids[: peer.config.max_position_embeddings]
    expected = transformers_nll(peer, ids)
    flags = ("--limit-tokens", str(len(ids)), "--context", str(len(ids)))
    assert our_nll(tmp_path / "model", tmp_path / "text.txt", *flags) == pytest.approx(
        expected, rel=TOLERANCE
    )
    # The twin: a first token that is not scored as it should be, or a label off by one.
    assert transformers_nll(peer, ids[1:]) != pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.network
def test_smollm2_scores_shakespeare_as_transformers_does(smollm2_gguf, shared_data, tmp_path):
    document = shared_data / "train" / "tinyshakespeare" / "input.txt"
    found = our_nll(smollm2_gguf, document, "--limit-tokens", "512", "--context", "512")
    assert found == pytest.approx(SMOLLM2_NLL, abs=SMOLLM2_TOLERANCE)
