"""Rotary position embedding (Su et al. 2021) of queries and keys.

Of the first R dimensions of a head, pair i is (i, i + R / 2), the half-rotation layout of Hugging
Face's Llama, or, interleaved, (2 i, 2 i + 1); dimensions past R stay. Angles are computed in fp32
whatever the model's dtype: in bf16 only 1,153 of 32,768 positions stay distinct.
"""

from __future__ import annotations

from typing import Any

import torch

from llmtools.ops.path import FLOATS, choose, dtype_refusal


def rope_tables(
    positions_T: torch.Tensor, head_dim: int, theta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, each (T, 1, head_dim / 2) fp32, of the angle position * theta^(-2i/head_dim)."""
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions_T.device)
    inverse_frequencies = 1.0 / (theta ** (steps / head_dim))
    angles = positions_T.to(torch.float32)[:, None] * inverse_frequencies
    return angles.cos()[:, None, :], angles.sin()[:, None, :]


def apply_rope_reference(
    x_THD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, is_interleaved: bool = False
) -> torch.Tensor:
    """The definition in float64: each pair (a, b) becomes (a cos - b sin, b cos + a sin)."""
    size = 2 * cos.shape[-1]
    turned, rest = x_THD.double().split([size, x_THD.shape[-1] - size], -1)
    c, s = cos.double(), sin.double()
    if is_interleaved:
        a, b = turned[..., ::2], turned[..., 1::2]
        turned = torch.stack((a * c - b * s, b * c + a * s), -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        turned = torch.cat((a * c - b * s, b * c + a * s), -1)
    return torch.cat((turned, rest), -1).to(x_THD.dtype)


def apply_rope(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    is_interleaved: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys rotated by their tables, (T, 1, R / 2) fp32 each; dtypes are kept."""
    way = choose("rope", q_THD, lambda: dtype_refusal((q_THD, k_TKD), FLOATS))
    if way == "reference":
        q, k = (
            apply_rope_reference(x, cos, sin, is_interleaved=is_interleaved) for x in (q_THD, k_TKD)
        )
        return q, k
    if way == "triton":
        q, k = (x if x.stride(2) == 1 else x.contiguous() for x in (q_THD, k_TKD))
        tables = [table.squeeze(1).contiguous() for table in (cos, sin)]
        turned: tuple[torch.Tensor, torch.Tensor] = _op(q, k, *tables, is_interleaved, False)
        return turned
    q, k = (_Rope.apply(x, cos, sin, is_interleaved) for x in (q_THD, k_TKD))  # type: ignore[no-untyped-call]
    return q, k


def _pairs(x: torch.Tensor, half: int, is_interleaved: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if is_interleaved:
        return x[..., : 2 * half : 2], x[..., 1 : 2 * half : 2]
    return x[..., :half], x[..., half : 2 * half]


def _rotate(
    x_THD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_interleaved: bool, sign: int
) -> torch.Tensor:
    out = torch.empty_like(x_THD, dtype=cos.dtype, memory_format=torch.contiguous_format)
    half = cos.shape[-1]
    a, b = _pairs(x_THD, half, is_interleaved)
    out_a, out_b = _pairs(out, half, is_interleaved)
    torch.mul(a, cos, out=out_a).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=out_b).addcmul_(a, sin, value=sign)
    if 2 * half < x_THD.shape[-1]:
        out[..., 2 * half :] = x_THD[..., 2 * half :]
    return out.to(x_THD.dtype)


class _Rope(torch.autograd.Function):
    """The backward of a rotation is the rotation by the opposite angle."""

    @staticmethod
    def forward(
        ctx: Any, x_THD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_interleaved: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.is_interleaved = is_interleaved
        return _rotate(x_THD, cos, sin, is_interleaved, 1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, sin, ctx.is_interleaved, -1), None, None, None


@torch.library.custom_op("llmtools::rope", mutates_args=())
def _op(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    cos_TR: torch.Tensor,
    sin_TR: torch.Tensor,
    is_interleaved: bool,
    is_inverse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    from llmtools.triton_kernels.rope import rope

    return rope(q_THD, k_TKD, cos_TR, sin_TR, is_interleaved=is_interleaved, is_inverse=is_inverse)


@_op.register_fake
def _(q_THD: torch.Tensor, k_TKD: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return q_THD.new_empty(q_THD.shape), k_TKD.new_empty(k_TKD.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.save_for_backward(inputs[2], inputs[3])
    ctx.is_interleaved, ctx.is_inverse = inputs[4:]


def _backward(
    ctx: Any, grad_q_THD: torch.Tensor, grad_k_TKD: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    grads = (x if x.stride(2) == 1 else x.contiguous() for x in (grad_q_THD, grad_k_TKD))
    turned = _op(*grads, *ctx.saved_tensors, ctx.is_interleaved, not ctx.is_inverse)
    return *turned, None, None, None, None


_op.register_autograd(_backward, setup_context=_keep)
