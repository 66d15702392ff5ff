"""RMSNorm, add + RMSNorm, LayerNorm and the norm of query and key heads, forward and backward.

    T  tokens     H  vectors of a token (heads; 1 for hidden states)     C  size of a vector

    z = x, or x + residual as it is rounded to the dtype
    y = (z - mean) r weight + bias        r = 1 / sqrt(mean((z - mean)^2) + eps)

where RMSNorm has mean 0 and no bias. With n = (z - mean) r and a gradient g of y:

    dz = r (g weight - n mean(g weight n) - mean(g weight))        the last term with a mean only
    dweight = sum of g n        dbias = sum of g

The sums over tokens are kept apart for each program and added in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from llmtools.triton_kernels.launch import num_multiprocessors, power_of_two

# Elements of a program's block, where a vector is no longer.
BLOCK_ELEMENTS = 4096


@triton.jit
def norm_forward_kernel(
    X, RESIDUAL, WEIGHT, BIAS, OUT, SUMS, MEANS, RSTDS,
    num_vectors, eps, x_token, x_head, r_token, r_head,
    HEADS: tl.constexpr, SIZE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_V: tl.constexpr,
    ADDED: tl.constexpr, CENTRED: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """A block of vectors; OUT and SUMS are contiguous."""
    at = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    cols = tl.arange(0, BLOCK_C)
    is_there = (at < num_vectors)[:, None] & (cols < SIZE)[None, :]
    token, head = (at // HEADS).to(tl.int64), at % HEADS
    x_at = X + (token * x_token + head * x_head)[:, None] + cols[None, :]
    z = tl.load(x_at, mask=is_there, other=0.0).to(tl.float32)
    out_at = at.to(tl.int64)[:, None] * SIZE + cols[None, :]
    if ADDED:
        r_at = RESIDUAL + (token * r_token + head * r_head)[:, None] + cols[None, :]
        rounded = (z + tl.load(r_at, mask=is_there, other=0.0).to(tl.float32)).to(
            SUMS.dtype.element_ty
        )
        tl.store(SUMS + out_at, rounded, mask=is_there)
        z = rounded.to(tl.float32)
    if CENTRED:
        mean = tl.sum(z, 1) / SIZE
        tl.store(MEANS + at, mean, mask=at < num_vectors)
        z = tl.where(is_there, z - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(z * z, 1) / SIZE + eps)
    tl.store(RSTDS + at, rstd, mask=at < num_vectors)
    weight = tl.load(WEIGHT + cols, mask=cols < SIZE, other=0.0).to(tl.float32)
    y = z * rstd[:, None] * weight[None, :]
    if BIASED:
        y += tl.load(BIAS + cols, mask=cols < SIZE, other=0.0).to(tl.float32)[None, :]
    tl.store(OUT + out_at, y.to(OUT.dtype.element_ty), mask=is_there)


@triton.jit
def norm_backward_kernel(
    GRAD, GRAD_SUMS, Z, WEIGHT, MEANS, RSTDS, DZ, DWEIGHT, DBIAS,
    num_vectors, z_token, z_head, blocks_each,
    HEADS: tl.constexpr, SIZE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_V: tl.constexpr,
    ADDED: tl.constexpr, CENTRED: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """Consecutive blocks of vectors of one program, and its sums for weight and bias.

    GRAD, GRAD_SUMS (what reaches x + residual past the norm) and DZ are contiguous.
    """
    program = tl.program_id(0)
    cols = tl.arange(0, BLOCK_C)
    weight = tl.load(WEIGHT + cols, mask=cols < SIZE, other=0.0).to(tl.float32)
    dweight = tl.zeros([BLOCK_C], tl.float32)
    dbias = tl.zeros([BLOCK_C], tl.float32)
    for block in range(program * blocks_each, (program + 1) * blocks_each):
        at = block * BLOCK_V + tl.arange(0, BLOCK_V)
        is_vector = at < num_vectors
        is_there = is_vector[:, None] & (cols < SIZE)[None, :]
        z_at = Z + ((at // HEADS).to(tl.int64) * z_token + at % HEADS * z_head)[:, None]
        z = tl.load(z_at + cols[None, :], mask=is_there, other=0.0).to(tl.float32)
        g_at = at.to(tl.int64)[:, None] * SIZE + cols[None, :]
        grad = tl.load(GRAD + g_at, mask=is_there, other=0.0).to(tl.float32)
        rstd = tl.load(RSTDS + at, mask=is_vector, other=0.0)
        if CENTRED:
            z -= tl.load(MEANS + at, mask=is_vector, other=0.0)[:, None]
        normed = tl.where(is_there, z * rstd[:, None], 0.0)
        dweight += tl.sum(grad * normed, 0)
        if BIASED:
            dbias += tl.sum(grad, 0)
        scaled = grad * weight[None, :]
        dz = scaled - normed * (tl.sum(scaled * normed, 1) / SIZE)[:, None]
        if CENTRED:
            dz -= (tl.sum(scaled, 1) / SIZE)[:, None]
        dz *= rstd[:, None]
        if ADDED:
            dz += tl.load(GRAD_SUMS + g_at, mask=is_there, other=0.0).to(tl.float32)
        tl.store(DZ + g_at, dz.to(DZ.dtype.element_ty), mask=is_there)
    sums_at = program.to(tl.int64) * SIZE + cols
    tl.store(DWEIGHT + sums_at, dweight, mask=cols < SIZE)
    if BIASED:
        tl.store(DBIAS + sums_at, dbias, mask=cols < SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normed:
    """What the forward gives: y; the sum it normed, x itself without a residual; and for the
    backward each vector's mean (None for RMSNorm) and 1 / deviation, fp32."""

    out: torch.Tensor
    sums: torch.Tensor
    means: torch.Tensor | None
    rstds: torch.Tensor


def _blocks(size: int) -> dict[str, int]:
    block = power_of_two(size)
    vectors = max(1, BLOCK_ELEMENTS // block)
    return {
        "BLOCK_C": block,
        "BLOCK_V": vectors,
        "num_warps": min(16, max(4, block * vectors // 1024)),
    }


def norm_forward(
    x_THC: torch.Tensor,
    weight_C: torch.Tensor,
    bias_C: torch.Tensor | None,
    residual_THC: torch.Tensor | None,
    *,
    eps: float,
    is_centred: bool,
) -> Normed:
    """is_centred: LayerNorm. x, residual: (T, H, C), vectors contiguous, tokens and heads anywhere.

    C is at most limits.LARGEST_NORM.
    """
    T, H, C = x_THC.shape
    out = torch.empty((T, H, C), dtype=x_THC.dtype, device=x_THC.device)
    rstds = torch.empty(T * H, dtype=torch.float32, device=x_THC.device)
    means = torch.empty_like(rstds) if is_centred else None
    sums = x_THC if residual_THC is None else torch.empty_like(out)
    residual = x_THC if residual_THC is None else residual_THC
    sizes = _blocks(C)
    if out.numel():
        norm_forward_kernel[(triton.cdiv(T * H, sizes["BLOCK_V"]),)](
            x_THC, residual, weight_C, weight_C if bias_C is None else bias_C, out, sums,
            rstds if means is None else means, rstds, T * H, eps,
            x_THC.stride(0), x_THC.stride(1), residual.stride(0), residual.stride(1),
            HEADS=H, SIZE=C, ADDED=residual_THC is not None, CENTRED=is_centred,
            BIASED=bias_C is not None, **sizes,
        )  # fmt: skip
    return Normed(out=out, sums=sums, means=means, rstds=rstds)


def norm_backward(
    grad_THC: torch.Tensor,
    grad_sums_THC: torch.Tensor | None,
    sums_THC: torch.Tensor,
    weight_C: torch.Tensor,
    means: torch.Tensor | None,
    rstds: torch.Tensor,
    *,
    has_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of x (and so of the residual), the weight and the bias, None without one.

    grad_sums: what reaches x + residual past the norm. The rest is of the forward. C is at most
    limits.LARGEST_NORM_BACKWARD.
    """
    T, H, C = sums_THC.shape
    dz = torch.empty((T, H, C), dtype=sums_THC.dtype, device=sums_THC.device)
    sizes = _blocks(C)
    blocks = max(1, triton.cdiv(T * H, sizes["BLOCK_V"]))
    blocks_each = triton.cdiv(blocks, 2 * num_multiprocessors(dz.device))
    programs = triton.cdiv(blocks, blocks_each)
    dweight = torch.empty((programs, C), dtype=torch.float32, device=dz.device)
    dbias = torch.empty_like(dweight) if has_bias else None
    norm_backward_kernel[(programs,)](
        grad_THC.contiguous(),
        dz if grad_sums_THC is None else grad_sums_THC.contiguous(),
        sums_THC, weight_C, rstds if means is None else means, rstds, dz, dweight,
        dweight if dbias is None else dbias, T * H, sums_THC.stride(0), sums_THC.stride(1),
        blocks_each, HEADS=H, SIZE=C, ADDED=grad_sums_THC is not None,
        CENTRED=means is not None, BIASED=has_bias, **sizes,
    )  # fmt: skip
    grad_bias = None if dbias is None else dbias.sum(0).to(weight_C.dtype)
    return dz, dweight.sum(0).to(weight_C.dtype), grad_bias
