"""Experts, convolutions and scans against float64, values and gradients, and twins that are wrong
in an expert, a boundary or a tap."""

from __future__ import annotations

import pytest
import torch
from autograd_results import gradients

from differences import error
from llmtools import ops
from llmtools.ops import path
from llmtools.ops.conv import causal_conv_reference
from llmtools.ops.moe import grouped_linear_reference
from llmtools.ops.scan import selective_scan_reference
from llmtools.triton_kernels import scan
from llmtools.triton_kernels.launch import Config
from llmtools.triton_kernels.moe import grouped_matmul, grouped_weight_grad

# Of the largest value: sums of a few dozen products in fp32, and the rounding of stored results.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)


@pytest.fixture(autouse=True)
def forced(monkeypatch):
    monkeypatch.setattr(path, "FORCED", "triton")


def placed(counts):
    return torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)


@DTYPES
@pytest.mark.parametrize("counts", [[5, 0, 9, 3], [0, 0, 1], [17], [0, 70, 2]])
def test_rows_are_multiplied_by_the_weight_of_their_expert(counts, dtype):
    torch.manual_seed(0)
    offsets = placed(counts)
    x = torch.randn(sum(counts), 40).to(dtype)
    weight = torch.randn(len(counts), 24, 40).to(dtype)
    found = gradients(lambda *a: ops.grouped_linear(*a, offsets), x, weight)
    want = gradients(lambda *a: grouped_linear_reference(*a, offsets), x, weight)
    assert error(found, want) < TOLERANCE[dtype]


def test_a_boundary_that_is_off_by_one_and_another_expert_are_told_apart():
    torch.manual_seed(0)
    x, weight = torch.randn(17, 40).bfloat16(), torch.randn(4, 24, 40).bfloat16()
    found = gradients(lambda *a: ops.grouped_linear(*a, placed([5, 0, 9, 3])), x, weight)
    for counts in ([6, 0, 8, 3], [5, 9, 0, 3]):
        twin = placed(counts)
        want = gradients(lambda *a, twin=twin: grouped_linear_reference(*a, twin), x, weight)
        assert error(found, want) > 2 * TOLERANCE[torch.bfloat16]


def test_tiles_of_other_sizes_give_the_same():
    torch.manual_seed(0)
    offsets, x = placed([20, 1, 0, 18]), torch.randn(39, 40)
    weight, grad = torch.randn(4, 40, 24), torch.randn(39, 24)
    whole = grouped_matmul(x, weight, offsets), grouped_weight_grad(grad, x, offsets)
    config = Config(blocks={"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16})
    parts = (
        grouped_matmul(x, weight, offsets, config),
        grouped_weight_grad(grad, x, offsets, config),
    )
    assert error(parts, whole) < 2e-6


@DTYPES
@pytest.mark.parametrize("is_renormalized", [True, False])
def test_routing_takes_the_likeliest_experts_and_weighs_them(is_renormalized, dtype, monkeypatch):
    torch.manual_seed(0)
    logits = torch.randn(9, 20).to(dtype)
    logits[3, 4:9] = logits[3].max() + 1
    named = {"is_renormalized": is_renormalized}

    def both():
        chosen = ops.route(logits, 3, **named)[1]
        return chosen, gradients(lambda x: ops.route(x, 3, **named)[0], logits)

    experts, found = both()
    monkeypatch.setattr(path, "FORCED", "reference")
    want_experts, want = both()
    assert torch.equal(experts, want_experts) and experts[3].tolist() == [4, 5, 6]
    assert error(found[:1], want[:1]) < 2e-6
    assert error(found, want) < TOLERANCE[dtype]
    named["is_renormalized"] = not is_renormalized
    assert error(found, both()[1]) > 2 * TOLERANCE[dtype]


def test_experts_together_are_a_layer_of_experts():
    torch.manual_seed(0)
    x, weight = torch.randn(7, 16), torch.randn(5, 12, 16)
    weights, experts = ops.route(torch.randn(7, 5), 2)
    order, offsets = ops.sort_by_expert(experts, 5)
    rows = ops.grouped_linear(x[order // 2], weight, offsets)
    found = torch.zeros(7, 12).index_add(0, order // 2, rows * weights.flatten()[order, None])
    want = torch.stack(
        [
            sum(w * weight[e] @ token for w, e in zip(ws, es, strict=True))
            for token, ws, es in zip(x, weights, experts.long(), strict=True)
        ]
    )
    assert error([found], [want]) < 2e-6


@DTYPES
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(
    ("lengths", "channels", "taps"), [([1], 1, 4), ([20, 2, 50], 7, 4), ([3], 70, 2)]
)
def test_a_causal_convolution(lengths, channels, taps, has_bias, dtype):
    torch.manual_seed(0)
    inputs = [torch.randn(sum(lengths), channels), torch.randn(channels, taps)]
    inputs = [x.to(dtype) for x in (*inputs, *([torch.randn(channels)] if has_bias else []))]

    def run(function, lengths=lengths, **named):
        return gradients(lambda x, w, b=None: function(x, w, b, lengths, **named), *inputs)

    for is_activated in (True, False):
        found = run(ops.causal_conv, is_activated=is_activated)
        want = run(causal_conv_reference, is_activated=is_activated)
        assert error(found, want) < TOLERANCE[dtype]
    if len(lengths) > 1:
        assert error(found, run(causal_conv_reference, [21, 1, 50])) > 2 * TOLERANCE[dtype]


@DTYPES
@pytest.mark.parametrize(
    ("lengths", "channels", "state"), [([1], 1, 1), ([9, 1, 14], 5, 4), ([21], 35, 3)]
)
def test_a_selective_scan(lengths, channels, state, dtype, monkeypatch):
    # Several chunks, the last not full, and documents that begin inside of them.
    monkeypatch.setattr(scan, "CHUNK", 8)
    torch.manual_seed(0)
    T = sum(lengths)
    inputs = [
        torch.randn(T, channels), torch.rand(T, channels), -torch.rand(channels, state) - 0.1,
        torch.randn(T, state), torch.randn(T, state), torch.randn(channels),
    ]  # fmt: skip
    inputs = [x.to(dtype) for x in inputs]
    found = gradients(lambda *a: ops.selective_scan(*a, lengths), *inputs)
    want = gradients(lambda *a: selective_scan_reference(*a, lengths), *inputs)
    assert error(found, want) < 4 * TOLERANCE[dtype]
    if len(lengths) > 1:
        twin = gradients(lambda *a: selective_scan_reference(*a, [8, 2, 14]), *inputs)
        assert error(found, twin) > 8 * TOLERANCE[dtype]
