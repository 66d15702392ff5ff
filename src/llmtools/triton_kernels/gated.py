"""act(gate) * up of SwiGLU and GeGLU (Shazeer 2020), forward and backward.

R rows, F feed-forward size. Rows of gate and up may lie apart: halves of one projection do. The
backward computes the activation again rather than keeping it.
"""

from __future__ import annotations

from typing import Literal

import torch
import triton
import triton.language as tl

Activation = Literal["silu", "gelu_tanh", "gelu"]
BLOCK = 1024


@triton.jit
def _activated(x, ACTIVATION: tl.constexpr):
    """act(x) and its derivative, fp32."""
    if ACTIVATION == "silu":
        s = tl.sigmoid(x)
        return x * s, s * (1 + x * (1 - s))
    if ACTIVATION == "gelu_tanh":
        # 0.5 (1 + tanh(u)) is sigmoid(2 u), with u = sqrt(2 / pi) (x + 0.044715 x^3).
        s = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
        slope = 1.5957691216057308 * (1 + 0.134145 * x * x)
        return x * s, s + x * s * (1 - s) * slope
    # Phi and phi of the normal distribution.
    below = 0.5 * (1 + tl.math.erf(x * 0.7071067811865476))
    density = 0.3989422804014327 * tl.exp(-0.5 * x * x)
    return x * below, below + x * density


@triton.jit
def gated_forward_kernel(
    GATE, UP, OUT, size, gate_row, up_row, ACTIVATION: tl.constexpr, BLOCK_F: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    is_there = cols < size
    gate = tl.load(GATE + row * gate_row + cols, mask=is_there, other=0.0).to(tl.float32)
    up = tl.load(UP + row * up_row + cols, mask=is_there, other=0.0).to(tl.float32)
    act, _ = _activated(gate, ACTIVATION)
    tl.store(OUT + row * size + cols, (act * up).to(OUT.dtype.element_ty), mask=is_there)


@triton.jit
def gated_backward_kernel(
    GRAD, GATE, UP, DGATE, DUP, size, gate_row, up_row,
    ACTIVATION: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    is_there = cols < size
    grad = tl.load(GRAD + row * size + cols, mask=is_there, other=0.0).to(tl.float32)
    gate = tl.load(GATE + row * gate_row + cols, mask=is_there, other=0.0).to(tl.float32)
    up = tl.load(UP + row * up_row + cols, mask=is_there, other=0.0).to(tl.float32)
    act, slope = _activated(gate, ACTIVATION)
    at = row * size + cols
    tl.store(DGATE + at, (grad * up * slope).to(DGATE.dtype.element_ty), mask=is_there)
    tl.store(DUP + at, (grad * act).to(DUP.dtype.element_ty), mask=is_there)


def gated_forward(
    gate_RF: torch.Tensor, up_RF: torch.Tensor, *, activation: Activation
) -> torch.Tensor:
    """act(gate) * up, contiguous, in the dtype of gate."""
    R, F = gate_RF.shape
    out = torch.empty((R, F), dtype=gate_RF.dtype, device=gate_RF.device)
    if out.numel():
        gated_forward_kernel[(R, triton.cdiv(F, BLOCK))](
            gate_RF, up_RF, out, F, gate_RF.stride(0), up_RF.stride(0),
            ACTIVATION=activation, BLOCK_F=BLOCK, num_warps=4,
        )  # fmt: skip
    return out


def gated_backward(
    grad_RF: torch.Tensor, gate_RF: torch.Tensor, up_RF: torch.Tensor, *, activation: Activation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of gate and up, contiguous."""
    R, F = gate_RF.shape
    dgate, dup = (torch.empty((R, F), dtype=x.dtype, device=x.device) for x in (gate_RF, up_RF))
    if dgate.numel():
        gated_backward_kernel[(R, triton.cdiv(F, BLOCK))](
            grad_RF.contiguous(), gate_RF, up_RF, dgate, dup, F, gate_RF.stride(0),
            up_RF.stride(0), ACTIVATION=activation, BLOCK_F=BLOCK, num_warps=4,
        )  # fmt: skip
    return dgate, dup
