"""Mixture of experts: the routing of tokens, and products of sorted tokens with their experts.

    T  tokens     E  experts     X  experts of a token     S  rows sorted by expert, T * X
    K  inputs     N  outputs

Rows of expert e are offsets[e] .. offsets[e + 1]. No number of rows is known on the host: a grid
has a program for each tile that there could be, and a program finds its expert from the offsets.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmtools.triton_kernels.launch import Config, power_of_two, precision


@triton.jit
def route_kernel(
    LOGITS, WEIGHTS, EXPERTS, num_experts, row_stride,
    X: tl.constexpr, BLOCK_E: tl.constexpr, RENORMALIZED: tl.constexpr,
):  # fmt: skip
    """The X likeliest experts of a token, of equal ones the first, and their probabilities."""
    token = tl.program_id(0).to(tl.int64)
    experts = tl.arange(0, BLOCK_E)
    is_expert = experts < num_experts
    logits = tl.load(LOGITS + token * row_stride + experts, mask=is_expert, other=float("-inf"))
    logits = logits.to(tl.float32)
    weights = tl.exp(logits - tl.max(logits, 0))
    probabilities = weights / tl.sum(weights, 0)
    left = tl.where(is_expert, probabilities, -1.0)
    total = tl.zeros([], tl.float32)
    for _ in range(X):
        largest = tl.max(left, 0)
        chosen = tl.min(tl.where(left == largest, experts, BLOCK_E), 0)
        total += largest
        left = tl.where(experts == chosen, -1.0, left)
    scale = 1.0 / total if RENORMALIZED else 1.0
    left = tl.where(is_expert, probabilities, -1.0)
    for place in range(X):
        largest = tl.max(left, 0)
        chosen = tl.min(tl.where(left == largest, experts, BLOCK_E), 0)
        tl.store(EXPERTS + token * X + place, chosen)
        tl.store(WEIGHTS + token * X + place, largest * scale)
        left = tl.where(experts == chosen, -1.0, left)


@triton.jit
def grouped_matmul_kernel(
    X, WEIGHT, OFFSETS, OUT, num_experts, N, K, x_row, w_expert, w_k, w_n,
    BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of the rows of one expert."""
    tile = tl.program_id(0)
    experts = tl.arange(0, BLOCK_E)
    is_expert = experts < num_experts
    starts = tl.load(OFFSETS + experts, mask=is_expert, other=0)
    stops = tl.load(OFFSETS + experts + 1, mask=is_expert, other=0)
    tiles = (stops - starts + BLOCK_M - 1) // BLOCK_M
    behind = tl.cumsum(tiles, 0)
    if tile >= tl.sum(tiles, 0):
        return
    expert = tl.sum((is_expert & (behind <= tile)).to(tl.int32), 0)
    is_own = experts == expert
    first = tl.sum(tl.where(is_own, starts, 0), 0)
    stop = tl.sum(tl.where(is_own, stops, 0), 0)
    before = tl.sum(tl.where(is_own, behind - tiles, 0), 0)
    rows = first + (tile - before) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    is_row, is_col = rows < stop, cols < N
    x_at = X + rows.to(tl.int64)[:, None] * x_row + ks[None, :]
    w_at = WEIGHT + expert.to(tl.int64) * w_expert + ks[:, None] * w_k + cols[None, :] * w_n
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, K, BLOCK_K):
        is_k = start + ks < K
        x = tl.load(x_at + start, mask=is_row[:, None] & is_k[None, :], other=0.0)
        w = tl.load(w_at + start * w_k, mask=is_k[:, None] & is_col[None, :], other=0.0)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
    out_at = OUT + rows.to(tl.int64)[:, None] * N + cols[None, :]
    tl.store(out_at, acc.to(OUT.dtype.element_ty), mask=is_row[:, None] & is_col[None, :])


@triton.jit
def grouped_weight_grad_kernel(
    GRAD, X, OFFSETS, OUT, N, K, g_row, x_row,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of the gradient of one expert's weight: all its rows, in their order."""
    expert = tl.program_id(2)
    first, stop = tl.load(OFFSETS + expert), tl.load(OFFSETS + expert + 1)
    ns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    acc = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for start in range(first, stop, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        is_row = rows < stop
        at = rows.to(tl.int64)[:, None]
        grad = tl.load(
            GRAD + at * g_row + ns[None, :], mask=is_row[:, None] & (ns < N)[None, :], other=0.0
        )
        x = tl.load(
            X + at * x_row + ks[None, :], mask=is_row[:, None] & (ks < K)[None, :], other=0.0
        )
        acc = tl.dot(tl.trans(grad), x, acc, input_precision=PRECISION)
    out_at = OUT + expert.to(tl.int64) * N * K + ns[:, None] * K + ks[None, :]
    is_there = (ns < N)[:, None] & (ks < K)[None, :]
    tl.store(out_at, acc.to(OUT.dtype.element_ty), mask=is_there)


def grouped_config(dtype: torch.dtype) -> Config:
    """Experts have few rows each, so tiles are not tall."""
    if dtype == torch.float32:
        blocks = {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32}
        return Config(blocks=blocks, num_warps=4, num_stages=2)
    blocks = {"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 64}
    return Config(blocks=blocks, num_warps=4, num_stages=2)


def route(
    logits_TE: torch.Tensor, num_chosen: int, *, is_renormalized: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (T, X) fp32 of a softmax over all experts, of the chosen to 1 where they are
    renormalized, and experts (T, X) int32; likeliest first."""
    T, E = logits_TE.shape
    weights = torch.empty((T, num_chosen), dtype=torch.float32, device=logits_TE.device)
    experts = torch.empty((T, num_chosen), dtype=torch.int32, device=logits_TE.device)
    if T:
        route_kernel[(T,)](
            logits_TE, weights, experts, E, logits_TE.stride(0), X=num_chosen,
            BLOCK_E=power_of_two(E), RENORMALIZED=is_renormalized, num_warps=1,
        )  # fmt: skip
    return weights, experts


def grouped_matmul(
    x_SK: torch.Tensor,
    weight_EKN: torch.Tensor,
    offsets: torch.Tensor,
    config: Config | None = None,
) -> torch.Tensor:
    """Rows times their expert's weight, (S, N) in the dtype of x; weights may have any strides.

    offsets: int32 (E + 1,), from 0 to S.
    """
    S, K = x_SK.shape
    E, _, N = weight_EKN.shape
    out = torch.empty((S, N), dtype=x_SK.dtype, device=x_SK.device)
    if not out.numel():
        return out
    config = config or grouped_config(x_SK.dtype)
    tiles = triton.cdiv(S, config.blocks["BLOCK_M"]) + E
    grouped_matmul_kernel[(tiles, triton.cdiv(N, config.blocks["BLOCK_N"]))](
        x_SK, weight_EKN, offsets, out, E, N, K, x_SK.stride(0), *weight_EKN.stride(),
        BLOCK_E=power_of_two(E), PRECISION=precision(x_SK.dtype), **config.keywords(),
    )  # fmt: skip
    return out


def grouped_weight_grad(
    grad_SN: torch.Tensor,
    x_SK: torch.Tensor,
    offsets: torch.Tensor,
    config: Config | None = None,
) -> torch.Tensor:
    """Gradients of all weights, (E, N, K) in the dtype of x; zeros for an expert without rows."""
    N, K = grad_SN.shape[1], x_SK.shape[1]
    E = offsets.numel() - 1
    out = torch.empty((E, N, K), dtype=x_SK.dtype, device=x_SK.device)
    config = config or grouped_config(x_SK.dtype)
    grid = (triton.cdiv(N, config.blocks["BLOCK_N"]), triton.cdiv(K, config.blocks["BLOCK_K"]), E)
    if out.numel():
        grouped_weight_grad_kernel[grid](
            grad_SN, x_SK, offsets, out, N, K, grad_SN.stride(0), x_SK.stride(0),
            PRECISION=precision(x_SK.dtype), **config.keywords(),
        )  # fmt: skip
    return out
