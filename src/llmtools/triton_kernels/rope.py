"""Rotary position embedding of queries and keys in one launch, and its inverse for the backward.

    T  tokens     H  query heads     K  key heads     D  head size     R  dimensions that rotate

Of the first R dimensions, pair i is (i, i + R / 2) or, interleaved, (2 i, 2 i + 1); the rest pass.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmtools.triton_kernels.launch import power_of_two


@triton.jit
def _rotated(
    X, OUT, cos, sin, token, head, is_token, x_token, x_head, o_token, o_head,
    HEAD_DIM: tl.constexpr, HALF: tl.constexpr, BLOCK_HALF: tl.constexpr,
    BLOCK_REST: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """One head of a block of tokens."""
    pair = tl.arange(0, BLOCK_HALF)
    first = pair * 2 if INTERLEAVED else pair
    second = first + 1 if INTERLEAVED else pair + HALF
    is_there = is_token[:, None] & (pair < HALF)[None, :]
    x_at = X + (token * x_token + head * x_head)[:, None]
    o_at = OUT + (token * o_token + head * o_head)[:, None]
    a = tl.load(x_at + first[None, :], mask=is_there, other=0.0).to(tl.float32)
    b = tl.load(x_at + second[None, :], mask=is_there, other=0.0).to(tl.float32)
    new_a, new_b = a * cos - b * sin, b * cos + a * sin
    tl.store(o_at + first[None, :], new_a.to(OUT.dtype.element_ty), mask=is_there)
    tl.store(o_at + second[None, :], new_b.to(OUT.dtype.element_ty), mask=is_there)
    if HEAD_DIM > 2 * HALF:
        rest = 2 * HALF + tl.arange(0, BLOCK_REST)
        is_rest = is_token[:, None] & (rest < HEAD_DIM)[None, :]
        passed = tl.load(x_at + rest[None, :], mask=is_rest, other=0.0)
        tl.store(o_at + rest[None, :], passed, mask=is_rest)


@triton.jit
def rope_kernel(
    Q, K, COS, SIN, Q_OUT, K_OUT, num_tokens, sign,
    q_token, q_head, k_token, k_head,
    Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr,
    BLOCK_HALF: tl.constexpr, BLOCK_REST: tl.constexpr, BLOCK_T: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """All heads of a block of tokens, which share their angles. sign: -1 turns back."""
    at = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    is_token = at < num_tokens
    token = at.to(tl.int64)
    pair = tl.arange(0, BLOCK_HALF)
    is_there = is_token[:, None] & (pair < HALF)[None, :]
    angle_at = token[:, None] * HALF + pair[None, :]
    cos = tl.load(COS + angle_at, mask=is_there, other=0.0)
    sin = tl.load(SIN + angle_at, mask=is_there, other=0.0) * sign
    for head in range(Q_HEADS):
        _rotated(
            Q, Q_OUT, cos, sin, token, head, is_token, q_token, q_head, Q_HEADS * HEAD_DIM,
            HEAD_DIM, HEAD_DIM, HALF, BLOCK_HALF, BLOCK_REST, INTERLEAVED,
        )  # fmt: skip
    for head in range(K_HEADS):
        _rotated(
            K, K_OUT, cos, sin, token, head, is_token, k_token, k_head, K_HEADS * HEAD_DIM,
            HEAD_DIM, HEAD_DIM, HALF, BLOCK_HALF, BLOCK_REST, INTERLEAVED,
        )  # fmt: skip


def rope(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    cos_TR: torch.Tensor,
    sin_TR: torch.Tensor,
    *,
    is_interleaved: bool = False,
    is_inverse: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotated queries and keys, contiguous; heads of q and k are, tokens may lie apart.

    cos, sin: (T, R / 2) fp32, contiguous. is_inverse: by the opposite angle, for gradients.
    """
    T, H, D = q_THD.shape
    K = k_TKD.shape[1]
    half = cos_TR.shape[1]
    q_out, k_out = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q_THD, k_TKD))
    if not T:
        return q_out, k_out
    block_half = power_of_two(half)
    block_t = max(1, 1024 // block_half) if T > 1024 else 1
    rope_kernel[(triton.cdiv(T, block_t),)](
        q_THD, k_TKD, cos_TR, sin_TR, q_out, k_out, T, -1.0 if is_inverse else 1.0,
        q_THD.stride(0), q_THD.stride(1), k_TKD.stride(0), k_TKD.stride(1),
        Q_HEADS=H, K_HEADS=K, HEAD_DIM=D, HALF=half, BLOCK_HALF=block_half,
        BLOCK_REST=power_of_two(max(1, D - 2 * half)), BLOCK_T=block_t,
        INTERLEAVED=is_interleaved, num_warps=4,
    )  # fmt: skip
    return q_out, k_out
