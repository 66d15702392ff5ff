"""Greedy tokens and filtered distributions equal transformers'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation import logits_process as peer

from llmtools.engine.engine import Engine
from llmtools.engine.request import Request
from llmtools.engine.sampling import Sampling, distribution
from llmtools.engine.scheduler import Limits
from llmtools.model import load_model
from tiny_engine import ByteTokenizer, prompts

# Both compute in fp32 or wider; the peer's probabilities are fp32.
TOLERANCE = 1e-5
NEW_TOKENS = 24
SHAPES: dict[str, dict[str, Any]] = {
    "grouped heads": {"num_attention_heads": 6, "num_key_value_heads": 2},
    "tied, one key head": {
        "num_attention_heads": 4, "num_key_value_heads": 1, "tie_word_embeddings": True,
    },
    "biases, own head size": {
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16,
        "attention_bias": True, "mlp_bias": True,
    },
}  # fmt: skip


def save_peer(shape: str, folder: Path) -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=257, hidden_size=48, intermediate_size=64, num_hidden_layers=3,
        max_position_embeddings=128, initializer_range=0.2, eos_token_id=None, **SHAPES[shape],
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model


def peer_greedy(model: LlamaForCausalLM, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False,
        pad_token_id=0,
    )  # fmt: skip
    return out[0, len(prompt) :].tolist()


def our_greedy(folder: Path, wanted: list[list[int]]) -> list[list[int]]:
    limits = Limits(max_batch=4, max_step_tokens=32, max_positions=600)
    engine = Engine(load_model(folder), ByteTokenizer(), limits=limits)
    requests = [
        Request(id=str(i), prompt_ids=ids, max_tokens=NEW_TOKENS) for i, ids in enumerate(wanted)
    ]
    return [completion.token_ids for completion in engine.complete(requests)]


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_of_a_batch_equal_transformers(shape: str, tmp_path: Path) -> None:
    model = save_peer(shape, tmp_path)
    wanted = prompts(6)
    assert our_greedy(tmp_path, wanted) == [peer_greedy(model, prompt) for prompt in wanted]


def test_the_comparison_rejects_another_model(tmp_path: Path) -> None:
    model = save_peer("grouped heads", tmp_path)
    with torch.no_grad():
        model.model.norm.weight[3] += 1.0
    wanted = prompts(3)
    assert our_greedy(tmp_path, wanted) != [peer_greedy(model, prompt) for prompt in wanted]


def warpers(sampling: Sampling) -> list[Any]:
    """The peer's filters in the peer's order."""
    made: list[Any] = [peer.TemperatureLogitsWarper(float(sampling.temperature))]
    if sampling.top_k:
        made.append(peer.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        made.append(peer.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        made.append(peer.MinPLogitsWarper(sampling.min_p))
    return made


def largest_difference(
    sampling: Sampling,
    theirs: Callable[[Sampling], list[Any]] = warpers,
    ours: Sampling | None = None,
) -> float:
    """Over some rows of logits: the largest difference of any token's probability."""
    worst = 0.0
    for seed in range(5):
        row = 2 * torch.randn(1, 3000, generator=torch.Generator().manual_seed(seed))
        scores = row
        for warp in theirs(sampling):
            scores = warp(None, scores)
        expected = scores[0].double().softmax(0)
        ids, probabilities = distribution(row[0], ours or sampling)
        found = torch.zeros(3000, dtype=torch.float64).index_put((ids,), probabilities)
        worst = max(worst, float((found - expected).abs().max()))
    return worst


ALL = Sampling(temperature=0.8, top_k=50, top_p=0.7, min_p=0.1)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.3),
        Sampling(temperature=1.5, top_k=40),
        Sampling(temperature=0.9, top_p=0.3),
        Sampling(temperature=2.0, top_p=0.99),
        Sampling(temperature=1.0, min_p=0.05),
        Sampling(temperature=1.0, top_k=10_000, top_p=0.8),
        ALL,
    ],
)
def test_filtered_distributions_equal_transformers(sampling: Sampling) -> None:
    assert largest_difference(sampling) < TOLERANCE


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0.82}, {"top_k": 49}, {"top_p": 0.72}, {"min_p": 0.2}],
)
def test_the_comparison_rejects_other_settings(wrong: dict[str, float]) -> None:
    base = replace(ALL, min_p=0.0) if "min_p" not in wrong and "top_p" in wrong else ALL
    if "top_k" in wrong:
        base = Sampling(temperature=0.8, top_k=50)
    assert largest_difference(base, ours=replace(base, **wrong)) > 100 * TOLERANCE  # type: ignore[arg-type]


def test_the_comparison_rejects_another_order_of_filters() -> None:
    # top_p of the whole distribution, then min_p of it before top-k has renormalised it.
    sampling = Sampling(temperature=1.0, top_k=20, top_p=0.8)
    swapped = largest_difference(sampling, lambda s: warpers(s)[::-1])
    assert swapped > 100 * TOLERANCE
