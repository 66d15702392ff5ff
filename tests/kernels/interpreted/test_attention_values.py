"""Flash attention against float64: outputs, log-sum-exps and gradients, and a wrong mask."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import accumulate

import pytest
import torch

from differences import error
from llmtools.triton_kernels.attention import attention_forward
from llmtools.triton_kernels.attention_backward import attention_backward
from llmtools.triton_kernels.launch import Config
from llmtools.triton_kernels.masking import Masking

# Of the largest value: sums of a few dozen products in fp32, and the rounding of stored results.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def reference(q, k, v, q_lens, k_lens, masking, scale):
    """Output (T, H, D) and log-sum-exp (H, T) in float64."""
    outs, lses = [], []
    group = q.shape[1] // k.shape[1]
    q_parts, k_parts, v_parts = q.split(q_lens), k.split(k_lens), v.split(k_lens)
    for q_part, k_part, v_part in zip(q_parts, k_parts, v_parts, strict=True):
        Q, K, V = (x.transpose(0, 1) for x in (q_part, k_part, v_part))
        K, V = K.repeat_interleave(group, 0), V.repeat_interleave(group, 0)
        scores = Q @ K.transpose(1, 2) * scale
        if masking.softcap:
            scores = masking.softcap * torch.tanh(scores / masking.softcap)
        rows = torch.arange(len(q_part))[:, None] + len(k_part) - len(q_part)
        cols = torch.arange(len(k_part))[None]
        if masking.slopes_H is not None:
            scores = scores + masking.slopes_H.double()[:, None, None] * (cols - rows)
        seen = torch.ones_like(scores[0], dtype=torch.bool)
        if masking.causal:
            seen &= cols <= rows
        if masking.window is not None:
            seen &= rows - cols < masking.window
        scores = scores.masked_fill(~seen, -math.inf)
        if masking.sinks_H is not None:
            sinks = masking.sinks_H[:, None, None].expand(-1, len(q_part), 1)
            scores = torch.cat([scores, sinks], -1)
        lse = scores.logsumexp(-1)
        base = torch.where(lse == -math.inf, 0.0, lse)
        weights = torch.exp(scores - base[..., None])[..., : len(k_part)]
        outs.append((weights @ V).transpose(0, 1))
        lses.append(lse)
    return torch.cat(outs), torch.cat(lses, 1)


def starts(lengths):
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)


def errors(q_lens, k_lens, heads, head_dim, dtype, masking, expected=None, blocks=(16, 16)):
    """Largest difference of each result over the largest value that it should have.

    expected: the masking of the reference, where that is another one.
    """
    torch.manual_seed(0)
    H, K = heads
    q = torch.randn(sum(q_lens), H, head_dim).to(dtype)
    k, v = (torch.randn(sum(k_lens), K, head_dim).to(dtype) for _ in range(2))
    grad = torch.randn(q.shape).to(dtype)
    scale = head_dim**-0.5
    config = Config(blocks={"BLOCK_M": blocks[0], "BLOCK_N": blocks[1]})
    places = starts(q_lens), starts(k_lens)
    out, lse = attention_forward(q, k, v, *places, max(q_lens), masking, scale, config)
    dq, dk, dv, dsinks = attention_backward(
        grad, q, k, v, out, lse, *places, max(q_lens), max(k_lens), masking, scale, config
    )
    wide = [x.double().requires_grad_() for x in (q, k, v)]
    theirs = masking if expected is None else expected
    if theirs.sinks_H is not None:
        theirs = replace(theirs, sinks_H=theirs.sinks_H.double().requires_grad_())
    want_out, want_lse = reference(*wide, q_lens, k_lens, theirs, scale)
    want_out.backward(grad.double())
    finite = torch.isfinite(want_lse)
    assert torch.equal(torch.isfinite(lse), finite)
    pairs = {
        "out": (out, want_out),
        "lse": (lse[finite], want_lse[finite]),
        "dq": (dq, wide[0].grad),
        "dk": (dk, wide[1].grad),
        "dv": (dv, wide[2].grad),
    }
    if dsinks is not None and theirs.sinks_H is not None:
        pairs["dsinks"] = (dsinks, theirs.sinks_H.grad)
    return {name: error(*pair) for name, pair in pairs.items()}


SLOPES = torch.tensor([0.1, 0.2, 0.3, 0.4])
CASES = {
    "two documents": ([20, 33], [20, 33], (2, 1), 16, Masking()),
    "behind a prefix": ([5, 1], [37, 9], (4, 2), 24, Masking()),
    "one token": ([1], [1], (1, 1), 16, Masking()),
    "more queries than keys": ([20], [13], (2, 1), 16, Masking()),
    "all see all": ([20], [33], (2, 2), 16, Masking(causal=False)),
    "window": ([40, 3], [40, 30], (2, 1), 16, Masking(window=7)),
    "window wider than a block": ([50], [50], (2, 1), 16, Masking(window=35)),
    "everything": (
        [20, 7],
        [40, 7],
        (4, 2),
        16,
        Masking(window=5, softcap=3.0, slopes_H=SLOPES, sinks_H=torch.tensor([0.0, 1, -1, 2])),
    ),
    "odd head": ([17], [17], (2, 1), 40, Masking(softcap=20.0)),
}


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("name", list(CASES))
def test_values_and_gradients_are_those_of_float64(name, dtype):
    found = errors(*CASES[name][:4], dtype, CASES[name][4])
    assert max(found.values()) < TOLERANCE[dtype], found


def test_blocks_of_other_sizes_give_the_same(dtype=torch.float32):
    for blocks in ((32, 16), (16, 32)):
        found = errors([40, 21], [47, 21], (2, 1), 16, dtype, Masking(window=20), blocks=blocks)
        assert max(found.values()) < TOLERANCE[dtype], found


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Masking(window=7), Masking(window=8)),
        (Masking(), Masking(causal=False)),
        (Masking(softcap=3.0), Masking(softcap=3.1)),
        (Masking(slopes_H=SLOPES[:2]), Masking(slopes_H=-SLOPES[:2])),
        (Masking(sinks_H=torch.zeros(2)), Masking()),
    ],
)
def test_another_masking_is_told_apart(ours, theirs):
    found = errors([40], [40], (2, 1), 16, torch.bfloat16, ours, expected=theirs)
    assert max(found[name] for name in ("out", "dq", "dk")) > 2 * TOLERANCE[torch.bfloat16], found


def test_the_backward_repeats_bit_for_bit():
    first, second = (errors([33], [33], (2, 1), 16, torch.bfloat16, Masking()) for _ in range(2))
    assert first == second
