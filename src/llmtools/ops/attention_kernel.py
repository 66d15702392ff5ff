"""The kernels of attention as operations of torch, with a gradient and safe to compile."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch

from llmtools.ops.path import FLOATS, dtype_refusal
from llmtools.triton_kernels.limits import LARGEST_HEAD, LARGEST_HEAD_FLOAT32
from llmtools.triton_kernels.masking import Masking


def attention_refusal(*qkv: torch.Tensor) -> str | None:
    """Why the kernel does not take these queries, keys and values; None where it does."""
    head_dim, dtype = qkv[0].shape[2], qkv[0].dtype
    largest = LARGEST_HEAD_FLOAT32 if dtype == torch.float32 else LARGEST_HEAD
    if head_dim > largest:
        of = " in float32" if dtype == torch.float32 else ""
        return f"heads of size {head_dim}; {largest} at most are taken{of}"
    return dtype_refusal(qkv, FLOATS)


@lru_cache(maxsize=16)
def _starts(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Where each document begins, and the end; all layers of a step ask for the same."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def kernel_attention(
    q_THD: torch.Tensor,
    k_NKD: torch.Tensor,
    v_NKD: torch.Tensor,
    lengths: Sequence[int],
    key_lengths: Sequence[int],
    masking: Masking,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As attention_and_lse of ops.attention; the output has a gradient."""
    q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (q_THD, k_NKD, v_NKD))
    out: torch.Tensor
    out, lse = _forward_op(
        q, k, v,
        list(lengths), list(key_lengths), scale,
        masking.causal, masking.window, masking.softcap, masking.slopes_H, masking.sinks_H,
    )  # fmt: skip
    return out, lse


@torch.library.custom_op("llmtools::attention", mutates_args=())
def _forward_op(
    q_THD: torch.Tensor,
    k_NKD: torch.Tensor,
    v_NKD: torch.Tensor,
    lengths: Sequence[int],
    key_lengths: Sequence[int],
    scale: float,
    causal: bool,
    window: int | None,
    softcap: float | None,
    slopes_H: torch.Tensor | None,
    sinks_H: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    from llmtools.triton_kernels.attention import attention_forward

    masking = Masking(
        causal=causal, window=window, softcap=softcap, slopes_H=slopes_H, sinks_H=sinks_H
    )
    starts = [_starts(tuple(each), q_THD.device) for each in (lengths, key_lengths)]
    most = max(lengths, default=0)
    return attention_forward(q_THD, k_NKD, v_NKD, starts[0], starts[1], most, masking, scale)


@_forward_op.register_fake
def _(q_THD: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    T, H, D = q_THD.shape
    return q_THD.new_empty(T, H, D), q_THD.new_empty(H, T, dtype=torch.float32)


@torch.library.custom_op("llmtools::attention_backward", mutates_args=())
def _backward_op(
    grad_THD: torch.Tensor,
    q_THD: torch.Tensor,
    k_NKD: torch.Tensor,
    v_NKD: torch.Tensor,
    out_THD: torch.Tensor,
    lse_HT: torch.Tensor,
    lengths: Sequence[int],
    key_lengths: Sequence[int],
    scale: float,
    causal: bool,
    window: int | None,
    softcap: float | None,
    slopes_H: torch.Tensor | None,
    sinks_H: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k, v and the sinks; of no sinks, an empty tensor."""
    from llmtools.triton_kernels.attention_backward import attention_backward

    masking = Masking(
        causal=causal, window=window, softcap=softcap, slopes_H=slopes_H, sinks_H=sinks_H
    )
    grad = grad_THD if grad_THD.stride(2) == 1 else grad_THD.contiguous()
    starts = [_starts(tuple(each), q_THD.device) for each in (lengths, key_lengths)]
    dq, dk, dv, dsinks = attention_backward(
        grad, q_THD, k_NKD, v_NKD, out_THD, lse_HT, starts[0], starts[1],
        max(lengths, default=0), max(key_lengths, default=0), masking, scale,
    )  # fmt: skip
    return dq, dk, dv, q_THD.new_empty(0) if dsinks is None else dsinks


@_backward_op.register_fake
def _(
    grad_THD: torch.Tensor,
    q_THD: torch.Tensor,
    k_NKD: torch.Tensor,
    v_NKD: torch.Tensor,
    *rest: Any,
) -> tuple[torch.Tensor, ...]:
    like = [x.new_empty(x.shape) for x in (q_THD, k_NKD, v_NKD)]
    sinks_H = rest[-1]
    return *like, q_THD.new_empty(0) if sinks_H is None else torch.empty_like(sinks_H)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k, v, *ctx.given, slopes, sinks = inputs
    ctx.save_for_backward(q, k, v, *output, slopes, sinks)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_THD: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
    *tensors, slopes, sinks = ctx.saved_tensors
    if slopes is not None and slopes.requires_grad:
        raise NotImplementedError("slopes of ALiBi are not learned")
    grads = _backward_op(grad_THD, *tensors, *ctx.given, slopes, sinks)
    return *grads[:3], *[None] * 7, None if sinks is None else grads[3]


_forward_op.register_autograd(_backward, setup_context=_keep)
