"""Products of 8-bit activations and weights, int8 or fp8: y = (x s_x) (W s_W)^T + b.

    M  rows of activations     K  inputs     N  outputs

Activations have a scale for each row (token), weights one for each output, so that both stand
outside the sum: products are summed in int32 or fp32 as they are and scaled once. Rows are rounded
to 8 bits in a kernel of its own, at the scale that maps their largest value to the largest code.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmtools.triton_kernels.launch import Config, power_of_two
from llmtools.triton_kernels.limits import LARGEST_CODE


@triton.jit
def quantize_rows_kernel(
    X, OUT, SCALES, x_row, size, LARGEST_CODE: tl.constexpr, BLOCK_K: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_K)
    x = tl.load(X + row * x_row + cols, mask=cols < size, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(x), 0)
    inverse = tl.where(largest > 0, LARGEST_CODE / tl.where(largest > 0, largest, 1.0), 0.0)
    scaled = tl.minimum(tl.maximum(x * inverse, -LARGEST_CODE), LARGEST_CODE)
    if OUT.dtype.element_ty == tl.int8:
        scaled = tl.floor(scaled + 0.5)
    tl.store(OUT + row * size + cols, scaled.to(OUT.dtype.element_ty), mask=cols < size)
    tl.store(SCALES + row, largest / LARGEST_CODE)


@triton.jit
def scaled_matmul_kernel(
    X, W, X_SCALES, W_SCALES, BIAS, OUT, M, N, K, x_row, w_row,
    HAS_BIAS: tl.constexpr, IS_INTEGER: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, TALL: tl.constexpr,
):  # fmt: skip
    """A tile of the product; tiles are walked in bands of TALL rows."""
    tile = tl.program_id(0)
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    band = tile // (TALL * tiles_n)
    height = tl.minimum(tiles_m - band * TALL, TALL)
    within = tile % (TALL * tiles_n)
    rows = (band * TALL + within % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = (within // height) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row, is_col = rows < M, cols < N
    ks = tl.arange(0, BLOCK_K)
    x_at = X + rows.to(tl.int64)[:, None] * x_row + ks[None, :]
    w_at = W + cols.to(tl.int64)[:, None] * w_row + ks[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.int32 if IS_INTEGER else tl.float32)
    for start in range(0, K, BLOCK_K):
        is_k = (ks + start < K)[None, :]
        x = tl.load(x_at + start, mask=is_row[:, None] & is_k, other=0.0)
        w = tl.load(w_at + start, mask=is_col[:, None] & is_k, other=0.0)
        acc = tl.dot(x, tl.trans(w), acc, out_dtype=acc.dtype)
    x_scale = tl.load(X_SCALES + rows, mask=is_row, other=0.0)
    w_scale = tl.load(W_SCALES + cols, mask=is_col, other=0.0).to(tl.float32)
    out = acc.to(tl.float32) * x_scale[:, None] * w_scale[None, :]
    if HAS_BIAS:
        out += tl.load(BIAS + cols, mask=is_col, other=0.0).to(tl.float32)[None, :]
    out_at = OUT + rows.to(tl.int64)[:, None] * N + cols[None, :]
    tl.store(out_at, out.to(OUT.dtype.element_ty), mask=is_row[:, None] & is_col[None, :])


def scaled_config(num_rows: int) -> Config:
    """As tall as the rows fill; 64 inputs of a byte are a line of 64 bytes."""
    if num_rows <= 16:
        return Config(
            blocks={"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 128}, num_warps=4, num_stages=3
        )
    if num_rows <= 64:
        return Config(
            blocks={"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 64}, num_warps=4, num_stages=3
        )
    return Config(blocks={"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64}, num_warps=8, num_stages=3)


def quantize_rows(x_MK: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (M, K) of `dtype`, int8 or float8_e4m3fn, and scales (M,) fp32; rows are contiguous.

    K is at most limits.LARGEST_ROW. Halves round up; torch rounds them to even.
    """
    M, K = x_MK.shape
    codes = torch.empty((M, K), dtype=dtype, device=x_MK.device)
    scales = torch.empty(M, dtype=torch.float32, device=x_MK.device)
    if M:
        block = power_of_two(K)
        quantize_rows_kernel[(M,)](
            x_MK, codes, scales, x_MK.stride(0), K, LARGEST_CODE=LARGEST_CODE[dtype], BLOCK_K=block,
            num_warps=min(16, max(4, block // 1024)),
        )  # fmt: skip
    return codes, scales


def scaled_matmul(
    codes_MK: torch.Tensor,
    scales_M: torch.Tensor,
    weight_NK: torch.Tensor,
    weight_scales_N: torch.Tensor,
    bias_N: torch.Tensor | None,
    *,
    dtype: torch.dtype,
    config: Config | None = None,
) -> torch.Tensor:
    """(M, N) in `dtype`; codes and weight are both int8 or both float8_e4m3fn, rows contiguous."""
    M, K = codes_MK.shape
    N = len(weight_NK)
    out = torch.empty((M, N), dtype=dtype, device=codes_MK.device)
    if not out.numel():
        return out
    config = config or scaled_config(M)
    tiles = triton.cdiv(M, config.blocks["BLOCK_M"]) * triton.cdiv(N, config.blocks["BLOCK_N"])
    scaled_matmul_kernel[(tiles,)](
        codes_MK, weight_NK, scales_M, weight_scales_N, scales_M if bias_N is None else bias_N,
        out, M, N, K, codes_MK.stride(0), weight_NK.stride(0),
        HAS_BIAS=bias_N is not None, IS_INTEGER=codes_MK.dtype == torch.int8, TALL=8,
        **config.keywords(),
    )  # fmt: skip
    return out
