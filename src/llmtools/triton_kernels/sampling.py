"""Drawing the next token: temperature, top-k, top-p and min-p in one launch, without sorting.

With w = exp((logit - largest) / temperature), a token is kept by how far below the likeliest it is,
d = (largest - logit) / temperature >= 0: top-k, top-p and min-p each are a limit of d. The bits of
a float that is not negative are ordered as it is, so a limit is found exactly by halving the range
of bits, each time with a pass over the row, which the caches hold. Of tokens at the limit itself
the first ones are kept, as many as are needed. The draw inverts the cumulative sum in the order of
ids, for a uniform number that the caller gives.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmtools.triton_kernels.launch import power_of_two

BLOCK = 1024
INFINITY_BITS = tl.constexpr(0x7F800000)
ALL = tl.constexpr(0x7FFFFFFF)


@triton.jit
def _distances(ROW, start, size, largest, scale, BLOCK_V: tl.constexpr):
    """d of a block, and its bits, those of infinity behind the end."""
    cols = start + tl.arange(0, BLOCK_V)
    logits = tl.load(ROW + cols, mask=cols < size, other=float("-inf")).to(tl.float32)
    d = tl.where(logits == float("-inf"), float("inf"), (largest - logits) * scale)
    return cols, d, d.to(tl.int32, bitcast=True)


@triton.jit
def _within(ROW, size, largest, scale, limit, BLOCK_V: tl.constexpr):
    """How many tokens have bits of at most `limit`, and their weight."""
    count = tl.zeros([], tl.int32)
    mass = tl.zeros([], tl.float32)
    for start in range(0, size, BLOCK_V):
        cols, d, bits = _distances(ROW, start, size, largest, scale, BLOCK_V)
        is_in = (bits <= limit) & (cols < size)
        count += tl.sum(is_in.to(tl.int32), 0)
        mass += tl.sum(tl.where(is_in, tl.exp(-d), 0.0), 0)
    return count, mass


@triton.jit
def sample_kernel(
    LOGITS, TEMPERATURES, TOP_KS, TOP_PS, MIN_PS, UNIFORMS, IDS, size, row_stride,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    ROW = LOGITS + row.to(tl.int64) * row_stride
    temperature = tl.load(TEMPERATURES + row)
    largest = tl.full([], float("-inf"), tl.float32)
    likeliest = tl.zeros([], tl.int32)
    for start in range(0, size, BLOCK_V):
        cols = start + tl.arange(0, BLOCK_V)
        logits = tl.load(ROW + cols, mask=cols < size, other=float("-inf")).to(tl.float32)
        top = tl.max(logits, 0)
        place = tl.min(tl.where((logits == top) & (cols < size), cols, ALL), 0)
        likeliest = tl.where(top > largest, place, likeliest)
        largest = tl.maximum(largest, top)
    if temperature == 0:
        tl.store(IDS + row, likeliest)
        return
    scale = 1.0 / temperature

    limit = tl.full([], INFINITY_BITS, tl.int32)
    ties = tl.full([], ALL, tl.int32)
    top_k = tl.load(TOP_KS + row)
    if (top_k > 0) & (top_k < size):
        low = tl.full([], -1, tl.int32)
        for _ in range(32):
            middle = low + (limit - low) // 2
            count, _ = _within(ROW, size, largest, scale, middle, BLOCK_V)
            limit = tl.where(count >= top_k, middle, limit)
            low = tl.where(count >= top_k, low, middle)
        count, _ = _within(ROW, size, largest, scale, limit - 1, BLOCK_V)
        ties = top_k - count

    top_p = tl.load(TOP_PS + row)
    if top_p < 1:
        count, mass = _within(ROW, size, largest, scale, limit - 1, BLOCK_V)
        all_count, _ = _within(ROW, size, largest, scale, limit, BLOCK_V)
        at_limit = tl.exp(-limit.to(tl.float32, bitcast=True))
        total = mass + tl.minimum(ties, all_count - count).to(tl.float32) * at_limit
        wanted = top_p * total
        low = tl.full([], -1, tl.int32)
        high = limit
        for _ in range(32):
            middle = low + (high - low) // 2
            _, mass = _within(ROW, size, largest, scale, middle, BLOCK_V)
            is_enough = (mass >= wanted) | (middle >= limit)
            high = tl.where(is_enough, middle, high)
            low = tl.where(is_enough, low, middle)
        _, mass = _within(ROW, size, largest, scale, high - 1, BLOCK_V)
        weight = tl.exp(-high.to(tl.float32, bitcast=True))
        needed = tl.ceil((wanted - mass) / tl.maximum(weight, 1e-38))
        needed = tl.minimum(tl.maximum(needed, 1.0), 1e9).to(tl.int32)
        ties = tl.where(high == limit, tl.minimum(ties, needed), needed)
        limit = high

    min_p = tl.load(MIN_PS + row)
    if min_p > 0:
        farthest = (-tl.log(min_p)).to(tl.int32, bitcast=True)
        ties = tl.where(farthest < limit, ALL, ties)
        limit = tl.minimum(limit, farthest)

    count, mass = _within(ROW, size, largest, scale, limit - 1, BLOCK_V)
    all_count, _ = _within(ROW, size, largest, scale, limit, BLOCK_V)
    at_limit = tl.exp(-limit.to(tl.float32, bitcast=True))
    total = mass + tl.minimum(ties, all_count - count).to(tl.float32) * at_limit
    wanted = tl.load(UNIFORMS + row) * total
    passed = tl.zeros([], tl.float32)
    seen = tl.zeros([], tl.int32)
    drawn = tl.full([], ALL, tl.int32)
    last = likeliest
    for start in range(0, size, BLOCK_V):
        cols, d, bits = _distances(ROW, start, size, largest, scale, BLOCK_V)
        is_tie = (bits == limit) & (cols < size)
        is_kept = ((bits < limit) & (cols < size)) | (
            is_tie & (seen + tl.cumsum(is_tie.to(tl.int32), 0) <= ties)
        )
        weights = tl.where(is_kept, tl.exp(-d), 0.0)
        reached = passed + tl.cumsum(weights, 0)
        is_hit = is_kept & (reached > wanted)
        drawn = tl.minimum(drawn, tl.min(tl.where(is_hit, cols, ALL), 0))
        last = tl.maximum(last, tl.max(tl.where(is_kept & (weights > 0), cols, 0), 0))
        passed += tl.sum(weights, 0)
        seen += tl.sum(is_tie.to(tl.int32), 0)
    tl.store(IDS + row, tl.where(drawn == ALL, last, drawn))


def sample(
    logits_RV: torch.Tensor,
    temperatures_R: torch.Tensor,
    top_ks_R: torch.Tensor,
    top_ps_R: torch.Tensor,
    min_ps_R: torch.Tensor,
    uniforms_R: torch.Tensor,
) -> torch.Tensor:
    """Ids (R,) int32. top_ks: int32, the others fp32; a temperature of 0 takes the likeliest, a
    top_k of 0, a top_p of 1 and a min_p of 0 keep all. uniforms: in [0, 1)."""
    R, V = logits_RV.shape
    ids = torch.empty(R, dtype=torch.int32, device=logits_RV.device)
    if R:
        sample_kernel[(R,)](
            logits_RV, temperatures_R, top_ks_R, top_ps_R, min_ps_R, uniforms_R, ids, V,
            logits_RV.stride(0), BLOCK_V=min(BLOCK, power_of_two(V)), num_warps=8,
        )  # fmt: skip
    return ids
