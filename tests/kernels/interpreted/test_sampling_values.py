"""The draw of the sampling kernel is that of the definition, for every filter and their ties."""

from __future__ import annotations

import pytest
import torch

from llmtools import ops
from llmtools.ops import path
from llmtools.ops.sampling import sample_reference

SETTINGS = {
    "greedy": (0.0, 0, 1.0, 0.0),
    "plain": (1.0, 0, 1.0, 0.0),
    "hot": (3.0, 0, 1.0, 0.0),
    "top-k": (1.0, 5, 1.0, 0.0),
    "top-k of 1": (1.0, 1, 1.0, 0.0),
    "top-k of more than there are": (1.0, 500, 1.0, 0.0),
    "top-p": (1.0, 0, 0.6, 0.0),
    "top-p of almost nothing": (1.0, 0, 1e-6, 0.0),
    "min-p": (1.0, 0, 1.0, 0.2),
    "all": (0.8, 12, 0.9, 0.05),
}


@pytest.fixture(autouse=True)
def forced(monkeypatch):
    monkeypatch.setattr(path, "FORCED", "triton")


def settings(name, rows):
    temperature, top_k, top_p, min_p = SETTINGS[name]
    return [
        torch.full((rows,), temperature),
        torch.full((rows,), top_k, dtype=torch.int32),
        torch.full((rows,), top_p),
        torch.full((rows,), min_p),
        (torch.arange(rows) + 0.5) / rows,
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", list(SETTINGS))
def test_the_draw_is_the_definition_s(name, dtype):
    torch.manual_seed(0)
    logits = (2 * torch.randn(8, 70)).to(dtype)
    given = settings(name, 8)
    assert torch.equal(ops.sample(logits, *given), sample_reference(logits, *given))


@pytest.mark.parametrize("name", ["greedy", "plain", "top-k", "top-p", "all"])
def test_of_equal_tokens_the_first_ones_are_kept(name):
    logits = torch.zeros(4, 40)
    logits[:, 20:] = 1.0
    logits[:2, 7] = 2.0
    given = settings(name, 4)
    found = ops.sample(logits, *given)
    assert torch.equal(found, sample_reference(logits, *given))
    if name == "top-k":
        assert set(found.tolist()) <= {7, 20, 21, 22, 23, 24}


def test_tokens_that_cannot_follow_are_not_drawn():
    logits = torch.full((3, 40), -torch.inf)
    logits[:, [3, 9]] = torch.tensor([1.0, 0.5])
    for name in SETTINGS:
        given = settings(name, 3)
        found = ops.sample(logits, *given)
        assert torch.equal(found, sample_reference(logits, *given))
        assert set(found.tolist()) <= {3, 9}


def test_shares_of_draws_are_the_probabilities():
    """A uniform number in the middle of each of 100 equal parts."""
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().repeat(100, 1)
    found = ops.sample(logits, *settings("plain", 100)).bincount(minlength=4)
    assert (found - torch.tensor([10, 20, 30, 40])).abs().max() <= 1


@pytest.mark.parametrize(("name", "wrong"), [("top-k", 2), ("top-p", 3), ("min-p", 4), ("hot", 1)])
def test_another_setting_is_told_apart(name, wrong):
    torch.manual_seed(0)
    logits = torch.randn(8, 70)
    given = settings(name, 8)
    found = ops.sample(logits, *given)
    given[wrong - 1] = settings("plain", 8)[wrong - 1]
    assert not torch.equal(found, sample_reference(logits, *given))
