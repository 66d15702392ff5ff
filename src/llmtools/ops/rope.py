"""Rotary position embedding (Su et al. 2021), the half-rotation layout of Hugging Face's Llama.

Dimension i is paired with i + D/2. Angles are computed in fp32 whatever the model's dtype: in bf16
only 1,153 of 32,768 positions stay distinct.
"""

from __future__ import annotations

from typing import Any

import torch


def rope_tables(
    positions_T: torch.Tensor, head_dim: int, theta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, each (T, 1, head_dim / 2) fp32, of the angle position * theta^(-2i/head_dim)."""
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions_T.device)
    inverse_frequencies = 1.0 / (theta ** (steps / head_dim))
    angles = positions_T.to(torch.float32)[:, None] * inverse_frequencies
    return angles.cos()[:, None, :], angles.sin()[:, None, :]


def apply_rope_reference(x_THD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The definition in float64: each pair (a, b) becomes (a cos - b sin, b cos + a sin)."""
    a, b = x_THD.double().chunk(2, -1)
    c, s = cos.double(), sin.double()
    return torch.cat((a * c - b * s, b * c + a * s), -1).to(x_THD.dtype)


def _rotate(x_THD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: int) -> torch.Tensor:
    out = torch.empty_like(x_THD, dtype=cos.dtype, memory_format=torch.contiguous_format)
    a, b = x_THD.chunk(2, -1)
    out_a, out_b = out.chunk(2, -1)
    torch.mul(a, cos, out=out_a).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=out_b).addcmul_(a, sin, value=sign)
    return out.to(x_THD.dtype)


class _Rope(torch.autograd.Function):
    """The backward of a rotation is the rotation by the opposite angle."""

    @staticmethod
    def forward(
        ctx: Any, x_THD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x_THD, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, sin, -1), None, None


def apply_rope(x_THD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys (T, H, D) by their tables (T, 1, D/2); the dtype of x is kept."""
    result: torch.Tensor = _Rope.apply(x_THD, cos, sin)  # type: ignore[no-untyped-call]
    return result
