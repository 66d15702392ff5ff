"""Experts, convolution, scan and sampling for the GPU benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from case import Case, Peer, Sizes

from llmtools import ops
from llmtools.ops.conv import causal_conv_reference
from llmtools.ops.moe import grouped_linear_reference
from llmtools.ops.sampling import sample_reference
from llmtools.ops.scan import selective_scan_reference

EXPERTS, STATE = 8, 16


def expert_inputs(s: Sizes, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Rows of eight experts, one of which has none."""
    counts = torch.full((EXPERTS,), s.tokens // (EXPERTS - 1))
    counts[2], counts[-1] = 0, 0
    counts[-1] = s.tokens - int(counts.sum())
    offsets = F.pad(counts.cumsum(0), (1, 0)).int()
    x = torch.randn(s.tokens, s.hidden, dtype=dtype)
    weight = torch.randn(EXPERTS, s.feed_forward // 8, s.hidden) * s.hidden**-0.5
    return x, weight.to(dtype), offsets


def one_by_one(x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    parts = x.split(offsets.diff().tolist())
    return torch.cat([F.linear(part, w) for part, w in zip(parts, weight, strict=True)])


def conv_inputs(s: Sizes, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    shapes = ((s.tokens, s.hidden), (s.hidden, 4), (s.hidden,))
    x, weight, bias = (torch.randn(shape, dtype=dtype) for shape in shapes)
    return x, weight, bias


def plain_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    padded = F.pad(x.T, (weight.shape[1] - 1, 0))[None]
    return F.silu(F.conv1d(padded, weight[:, None], bias, groups=len(weight))[0].T)


def scan_inputs(s: Sizes, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    u, b, c = (torch.randn(s.tokens, n).to(dtype) for n in (s.hidden, STATE, STATE))
    delta = torch.rand(s.tokens, s.hidden).to(dtype)
    return u, delta, -torch.rand(s.hidden, STATE) - 0.1, b, c, torch.randn(s.hidden)


def sampling_inputs(s: Sizes, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    rows = 4 * s.sequences
    logits = (2 * torch.randn(rows, s.vocabulary)).to(dtype)
    settings = [torch.full((rows,), value) for value in (0.8, 0.9, 0.02)]
    top_ks = torch.full((rows,), 50, dtype=torch.int32)
    return logits, settings[0], top_ks, *settings[1:], (torch.arange(rows) + 0.5) / rows


def marked(draw: Any, logits: torch.Tensor, *settings: torch.Tensor) -> torch.Tensor:
    """1 at each row's token: ids that differ by one are as wrong as others."""
    return F.one_hot(draw(logits, *settings), logits.shape[1]).float()


def mixing_cases() -> Iterator[Case]:
    yield Case(
        name="products of experts, and backward", make=expert_inputs, has_gradient=True,
        ours=ops.grouped_linear, reference=grouped_linear_reference,
        peers={"torch": Peer(call=one_by_one)},
        flops=lambda s: 6.0 * s.tokens * s.hidden * (s.feed_forward // 8),
    )  # fmt: skip
    yield Case(
        name="routing and backward", has_gradient=True,
        make=lambda s, dtype: (torch.randn(s.tokens, 64, dtype=dtype),),
        ours=lambda x: ops.route(x, 4)[0],
        reference=lambda x: (lambda p: p / p.sum(-1, keepdim=True))(
            x.double().softmax(-1).sort(dim=-1, descending=True, stable=True)[0][:, :4]
        ),
        bytes=lambda s: 4.0 * 64 * s.tokens,
    )  # fmt: skip
    yield Case(
        name="causal convolution and backward", make=conv_inputs, has_gradient=True,
        ours=lambda x, w, b: ops.causal_conv(x, w, b, [len(x)]),
        reference=lambda x, w, b: causal_conv_reference(x, w, b, [len(x)]),
        peers={"torch": Peer(call=plain_conv)},
        bytes=lambda s: 10.0 * s.tokens * s.hidden,
    )  # fmt: skip
    yield Case(
        name="selective scan and backward", make=scan_inputs, has_gradient=True,
        ours=lambda *given: ops.selective_scan(*given, [len(given[0])]),
        reference=lambda *given: selective_scan_reference(*given, [len(given[0])]),
        bytes=lambda s: 16.0 * s.tokens * s.hidden,
        flops=lambda s: 28.0 * STATE * s.tokens * s.hidden,
    )  # fmt: skip
    yield Case(
        name="sampling", make=sampling_inputs,
        ours=lambda *given: marked(ops.sample, *given),
        reference=lambda *given: marked(sample_reference, *given),
        bytes=lambda s: 8.0 * s.sequences * s.vocabulary,
    )  # fmt: skip
