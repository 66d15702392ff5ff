"""The selective scan of Mamba (Gu and Dao 2023) over consecutive documents.

T tokens, C channels, N size of a channel's state. With h = 0 before a document's first token:

    h[t] = exp(delta[t] A) h[t - 1] + delta[t] u[t] B[t]
    y[t] = sum over N of C[t] h[t] + D u[t]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llmtools.ops.conv import first_tokens
from llmtools.ops.path import FLOATS, choose, dtype_refusal
from llmtools.triton_kernels.limits import LARGEST_STATE


def selective_scan(
    u_TC: torch.Tensor,
    delta_TC: torch.Tensor,
    a_CN: torch.Tensor,
    b_TN: torch.Tensor,
    c_TN: torch.Tensor,
    d_C: torch.Tensor,
    lengths: Sequence[int],
) -> torch.Tensor:
    """y (T, C) in the dtype of u; delta is what softplus gave, A is negative.

    lengths: tokens of each document in order, sum T. States are kept in fp32.
    """
    tensors = (u_TC, delta_TC, a_CN, b_TN, c_TN, d_C)
    way = choose("selective_scan", u_TC, lambda: _refusal(*tensors))
    if way == "triton":
        out: torch.Tensor
        out, _ = _op(*(x.contiguous() for x in tensors), list(lengths))
        return out
    wide = torch.float64 if way == "reference" else torch.float32
    return _scanned(tuple(x.to(wide) for x in tensors), lengths).to(u_TC.dtype)


def selective_scan_reference(*given: Any) -> torch.Tensor:
    """The definition in float64, see selective_scan."""
    *tensors, lengths = given
    return _scanned(tuple(x.double() for x in tensors), lengths).to(tensors[0].dtype)


def _scanned(tensors: tuple[torch.Tensor, ...], lengths: Sequence[int]) -> torch.Tensor:
    u, delta, a, b, c, d = tensors
    outs = [u[:0]]
    start = 0
    for length in lengths:
        state = torch.zeros_like(a)
        for t in range(start, start + length):
            added = (delta[t] * u[t])[:, None] * b[t]
            state = torch.exp(delta[t][:, None] * a) * state + added
            outs.append((state @ c[t] + d * u[t])[None])
        start += length
    return torch.cat(outs)


def _refusal(*tensors: torch.Tensor) -> str | None:
    if tensors[2].shape[1] > LARGEST_STATE:
        return f"states of {tensors[2].shape[1]}; {LARGEST_STATE} at most are taken"
    for tensor in tensors:
        if (refusal := dtype_refusal((tensor,), FLOATS)) is not None:
            return refusal
    return None


@torch.library.custom_op("llmtools::selective_scan", mutates_args=())
def _op(
    u_TC: torch.Tensor,
    delta_TC: torch.Tensor,
    a_CN: torch.Tensor,
    b_TN: torch.Tensor,
    c_TN: torch.Tensor,
    d_C: torch.Tensor,
    lengths: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    from llmtools.triton_kernels.scan import scan_forward

    firsts = first_tokens(lengths, u_TC.device)
    return scan_forward(u_TC, delta_TC, a_CN, b_TN, c_TN, d_C, firsts)


@_op.register_fake
def _(
    u_TC: torch.Tensor, delta_TC: torch.Tensor, a_CN: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    from llmtools.triton_kernels.scan import CHUNK

    states = u_TC.new_empty(-(-len(u_TC) // CHUNK), *a_CN.shape, dtype=torch.float32)
    return u_TC.new_empty(u_TC.shape), states


@torch.library.custom_op("llmtools::selective_scan_backward", mutates_args=())
def _backward_op(
    grad_TC: torch.Tensor,
    u_TC: torch.Tensor,
    delta_TC: torch.Tensor,
    a_CN: torch.Tensor,
    b_TN: torch.Tensor,
    c_TN: torch.Tensor,
    d_C: torch.Tensor,
    states: torch.Tensor,
    lengths: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    from llmtools.triton_kernels.scan import scan_backward

    firsts = first_tokens(lengths, u_TC.device)
    u, delta, a, b, c, d = scan_backward(
        grad_TC, u_TC, delta_TC, a_CN, b_TN, c_TN, d_C, firsts, states
    )
    return u, delta, a, b, c, d


@_backward_op.register_fake
def _(grad_TC: torch.Tensor, *given: Any) -> tuple[torch.Tensor, ...]:
    return tuple(torch.empty_like(x) for x in given[:6])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    *tensors, ctx.lengths = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_TC: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    grads = _backward_op(grad_TC.contiguous(), *ctx.saved_tensors, ctx.lengths)
    return *grads, None


_op.register_autograd(_backward, setup_context=_keep)
