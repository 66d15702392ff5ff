"""Causal depthwise convolution over time, of documents one after another (Mamba's conv1d).

    T  tokens     C  channels     W  taps

    z[t] = bias + sum over j of weight[:, j] x[t - (W - 1) + j]        y = z or silu(z)

where x before the first token of t's document is 0. The backward makes z again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK_T = 64
BLOCK_C = 64


@triton.jit
def _convolved(
    X, WEIGHT, BIAS, at, first, cols, is_there, size, x_row,
    TAPS: tl.constexpr, BIASED: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    z = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    for tap in range(TAPS):
        source = at - (TAPS - 1) + tap
        seen = is_there & (source >= first)[:, None]
        x = tl.load(X + source.to(tl.int64)[:, None] * x_row + cols[None, :], mask=seen, other=0.0)
        weight = tl.load(WEIGHT + cols * TAPS + tap, mask=cols < size, other=0.0)
        z += x.to(tl.float32) * weight.to(tl.float32)[None, :]
    if BIASED:
        z += tl.load(BIAS + cols, mask=cols < size, other=0.0).to(tl.float32)[None, :]
    return z


@triton.jit
def conv_forward_kernel(
    X, WEIGHT, BIAS, FIRSTS, OUT, num_tokens, size, x_row,
    TAPS: tl.constexpr, BIASED: tl.constexpr, ACTIVATED: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_there = (at < num_tokens)[:, None] & (cols < size)[None, :]
    first = tl.load(FIRSTS + at, mask=at < num_tokens, other=0)
    z = _convolved(
        X, WEIGHT, BIAS, at, first, cols, is_there, size, x_row, TAPS, BIASED, BLOCK_T, BLOCK_C
    )
    y = z * tl.sigmoid(z) if ACTIVATED else z
    out_at = OUT + at.to(tl.int64)[:, None] * size + cols[None, :]
    tl.store(out_at, y.to(OUT.dtype.element_ty), mask=is_there)


@triton.jit
def conv_grad_z_kernel(
    GRAD, X, WEIGHT, BIAS, FIRSTS, DZ, DWEIGHT, DBIAS, num_tokens, size, g_row, x_row,
    TAPS: tl.constexpr, BIASED: tl.constexpr, ACTIVATED: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradient of z, fp32, and a block of tokens' share of those of weight and bias."""
    block = tl.program_id(0)
    at = block * BLOCK_T + tl.arange(0, BLOCK_T)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_there = (at < num_tokens)[:, None] & (cols < size)[None, :]
    first = tl.load(FIRSTS + at, mask=at < num_tokens, other=0)
    grad_at = GRAD + at.to(tl.int64)[:, None] * g_row + cols[None, :]
    dz = tl.load(grad_at, mask=is_there, other=0.0).to(tl.float32)
    if ACTIVATED:
        z = _convolved(
            X, WEIGHT, BIAS, at, first, cols, is_there, size, x_row, TAPS, BIASED, BLOCK_T, BLOCK_C
        )
        s = tl.sigmoid(z)
        dz = dz * s * (1 + z * (1 - s))
    tl.store(DZ + at.to(tl.int64)[:, None] * size + cols[None, :], dz, mask=is_there)
    for tap in range(TAPS):
        source = at - (TAPS - 1) + tap
        seen = is_there & (source >= first)[:, None]
        x = tl.load(X + source.to(tl.int64)[:, None] * x_row + cols[None, :], mask=seen, other=0.0)
        share = tl.sum(dz * x.to(tl.float32), 0)
        share_at = DWEIGHT + (block.to(tl.int64) * size + cols) * TAPS + tap
        tl.store(share_at, share, mask=cols < size)
    if BIASED:
        tl.store(DBIAS + block.to(tl.int64) * size + cols, tl.sum(dz, 0), mask=cols < size)


@triton.jit
def conv_grad_x_kernel(
    DZ, WEIGHT, FIRSTS, DX, num_tokens, size,
    TAPS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """What reaches each token from the outputs behind it that are of its document."""
    at = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_col = cols < size
    dx = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    for tap in range(TAPS):
        target = at + (TAPS - 1) - tap
        first = tl.load(FIRSTS + target, mask=target < num_tokens, other=num_tokens)
        seen = ((first <= at) & (target < num_tokens))[:, None] & is_col[None, :]
        dz_at = DZ + target.to(tl.int64)[:, None] * size + cols[None, :]
        dz = tl.load(dz_at, mask=seen, other=0.0)
        weight = tl.load(WEIGHT + cols * TAPS + tap, mask=is_col, other=0.0).to(tl.float32)
        dx += dz * weight[None, :]
    is_there = (at < num_tokens)[:, None] & is_col[None, :]
    dx_at = DX + at.to(tl.int64)[:, None] * size + cols[None, :]
    tl.store(dx_at, dx.to(DX.dtype.element_ty), mask=is_there)


def conv_forward(
    x_TC: torch.Tensor,
    weight_CW: torch.Tensor,
    bias_C: torch.Tensor | None,
    firsts_T: torch.Tensor,
    *,
    is_activated: bool,
) -> torch.Tensor:
    """(T, C) in the dtype of x. firsts: int32, the first token of each token's document. Channels
    are contiguous, tokens may lie apart; weight is contiguous."""
    T, C = x_TC.shape
    out = torch.empty((T, C), dtype=x_TC.dtype, device=x_TC.device)
    if out.numel():
        conv_forward_kernel[(triton.cdiv(T, BLOCK_T), triton.cdiv(C, BLOCK_C))](
            x_TC, weight_CW, weight_CW if bias_C is None else bias_C, firsts_T, out, T, C,
            x_TC.stride(0), TAPS=weight_CW.shape[1], BIASED=bias_C is not None,
            ACTIVATED=is_activated, BLOCK_T=BLOCK_T, BLOCK_C=BLOCK_C, num_warps=4,
        )  # fmt: skip
    return out


def conv_backward(
    grad_TC: torch.Tensor,
    x_TC: torch.Tensor,
    weight_CW: torch.Tensor,
    bias_C: torch.Tensor | None,
    firsts_T: torch.Tensor,
    *,
    is_activated: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of x, weight and bias, None without one; the shares of blocks of tokens are added
    in a fixed order."""
    T, C = x_TC.shape
    W = weight_CW.shape[1]
    blocks = max(1, triton.cdiv(T, BLOCK_T))
    dz = torch.empty((T, C), dtype=torch.float32, device=x_TC.device)
    dx = torch.empty((T, C), dtype=x_TC.dtype, device=x_TC.device)
    dweight = torch.empty((blocks, C, W), dtype=torch.float32, device=x_TC.device)
    dbias = None if bias_C is None else torch.empty_like(dweight[:, :, 0].contiguous())
    sizes = {"TAPS": W, "BLOCK_T": BLOCK_T, "BLOCK_C": BLOCK_C, "num_warps": 4}
    grid = (blocks, triton.cdiv(C, BLOCK_C))
    conv_grad_z_kernel[grid](
        grad_TC, x_TC, weight_CW, weight_CW if bias_C is None else bias_C, firsts_T, dz, dweight,
        dweight if dbias is None else dbias, T, C, grad_TC.stride(0), x_TC.stride(0),
        BIASED=bias_C is not None, ACTIVATED=is_activated, **sizes,
    )  # fmt: skip
    conv_grad_x_kernel[grid](dz, weight_CW, firsts_T, dx, T, C, **sizes)
    of_bias = None if bias_C is None or dbias is None else dbias.sum(0).to(bias_C.dtype)
    return dx, dweight.sum(0).to(weight_CW.dtype), of_bias
