"""Experts, convolutions, scans and draws where no GPU is, against their definitions."""

from __future__ import annotations

import pytest
import torch

from llmtools import ops
from llmtools.ops import path
from llmtools.ops.conv import causal_conv_reference
from llmtools.ops.moe import grouped_linear_reference
from llmtools.ops.scan import selective_scan_reference


@pytest.mark.parametrize("is_renormalized", [True, False])
def test_routing_is_the_definition_and_its_weights_are_probabilities(is_renormalized, monkeypatch):
    torch.manual_seed(0)
    logits = torch.randn(9, 12)
    weights, experts = ops.route(logits, 3, is_renormalized=is_renormalized)
    monkeypatch.setattr(path, "FORCED", "reference")
    want, want_experts = ops.route(logits, 3, is_renormalized=is_renormalized)
    assert torch.equal(experts, want_experts)
    torch.testing.assert_close(weights, want)
    total = weights.sum(-1)
    assert torch.allclose(total, torch.ones(9)) == is_renormalized and (total <= 1.00001).all()


def test_rows_sorted_by_expert_are_each_there_once_and_in_order():
    experts = torch.tensor([[3, 0], [0, 2], [3, 2]], dtype=torch.int32)
    order, offsets = ops.sort_by_expert(experts, 5)
    assert offsets.tolist() == [0, 2, 2, 4, 6, 6] and offsets.dtype == torch.int32
    assert order.tolist() == [1, 2, 3, 5, 0, 4]


@pytest.mark.parametrize("counts", [[5, 0, 9], [0, 0, 1], [0, 0, 0]])
def test_products_of_experts_are_the_definition(counts):
    torch.manual_seed(0)
    offsets = torch.tensor([0, *counts]).cumsum(0).int()
    x, weight = torch.randn(sum(counts), 8), torch.randn(3, 6, 8)
    found = ops.grouped_linear(x, weight, offsets)
    torch.testing.assert_close(found, grouped_linear_reference(x, weight, offsets))
    if counts == [5, 0, 9]:
        wrong = torch.tensor([0, 6, 6, 14], dtype=torch.int32)
        assert not torch.allclose(found, grouped_linear_reference(x, weight, wrong), atol=0.01)


@pytest.mark.parametrize("is_activated", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_convolution_sees_what_is_before_it_in_its_document(has_bias, is_activated):
    torch.manual_seed(0)
    x, weight = torch.randn(12, 5), torch.randn(5, 4)
    bias = torch.randn(5) if has_bias else None
    named = {"is_activated": is_activated}
    found = ops.causal_conv(x, weight, bias, [7, 1, 4], **named)
    want = causal_conv_reference(x, weight, bias, [7, 1, 4], **named)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    other = causal_conv_reference(x, weight, bias, [6, 2, 4], **named)
    assert not torch.allclose(found, other, atol=0.01)


def test_draws_follow_the_filters():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().repeat(4, 1)
    uniforms = torch.tensor([0.0, 0.45, 0.72, 0.99])

    def drawn(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
        parts = [torch.full((4,), value) for value in (temperature, top_p, min_p)]
        top_ks = torch.full((4,), top_k, dtype=torch.int32)
        return ops.sample(logits, parts[0], top_ks, parts[1], parts[2], uniforms).tolist()

    assert drawn() == [0, 1, 2, 3]
    assert drawn(temperature=0.0) == [0, 0, 0, 0]
    assert drawn(top_k=2) == [0, 0, 1, 1]
    assert drawn(top_p=0.65) == [0, 0, 1, 1]
    assert drawn(top_p=0.75) == [0, 1, 1, 2]
    assert drawn(min_p=0.6) == [0, 0, 1, 1]


def test_a_scan_is_the_definition_and_forgets_at_the_end_of_a_document():
    torch.manual_seed(0)
    given = [
        torch.randn(9, 5), torch.rand(9, 5), -torch.rand(5, 3), torch.randn(9, 3),
        torch.randn(9, 3), torch.randn(5),
    ]  # fmt: skip
    found = ops.selective_scan(*given, [4, 5])
    torch.testing.assert_close(found, selective_scan_reference(*given, [4, 5]))
    assert not torch.allclose(found, selective_scan_reference(*given, [9]), atol=0.01)
    tokens = [x[4:] if len(x) == 9 else x for x in given]
    torch.testing.assert_close(found[4:], ops.selective_scan(*tokens, [5]))
