"""Decoding attention over a paged cache: one query a sequence, keys split between programs.

    B  sequences     H  query heads     K  key heads, H = GROUP * K     D  head size
    P  pages of the pool     S  positions of a page     X  splits of a sequence

Position n of sequence b lies in page table[b, n // S] at n % S. The GROUP query heads that read one
key head are the rows of one product, padded to the 16 rows of a matrix instruction. A program takes
one split of one key head; a second kernel adds the splits, each weighted by its log-sum-exp.

Keys and values may be fp8 or int8, with a scale for each position and head: those of keys multiply
the scores and those of values the weights, so that no tile is decoded element by element.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmtools.triton_kernels.attention import LN2, LOG2E, _scores
from llmtools.triton_kernels.launch import (
    Config,
    num_multiprocessors,
    power_of_two,
    precision,
)
from llmtools.triton_kernels.masking import Masking
from llmtools.triton_kernels.paged_cache import PagedCache

# A split has at least this many positions, and a sequence at most this many splits.
LEAST_POSITIONS = 256
MOST_SPLITS = 64


@triton.jit
def paged_attention_kernel(
    Q, KEYS, VALUES, K_SCALES, V_SCALES, TABLE, LENGTHS, SLOPES_H, PARTS, LSES,
    scale, softcap, window, positions_each,
    q_row, q_head, k_page, k_at_stride, k_head, v_page, v_at_stride, v_head,
    s_page, s_at_stride, table_row,
    HEADS: tl.constexpr, GROUP: tl.constexpr, PAGE: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr,
    SCALED: tl.constexpr, WINDOWED: tl.constexpr, SOFTCAP: tl.constexpr, SLOPES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Unnormalized output and log-sum-exp (base 2) of a split, of all heads that share its keys."""
    key_head, split, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(LENGTHS + sequence)
    rows = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    is_row = rows < GROUP
    is_dim = dims < HEAD_DIM
    heads = key_head * GROUP + rows
    q_at = Q + sequence.to(tl.int64) * q_row + heads[:, None] * q_head + dims[None, :]
    q = tl.load(q_at, mask=is_row[:, None] & is_dim[None, :], other=0.0)
    slope = tl.zeros([BLOCK_M, 1], tl.float32)
    if SLOPES:
        slope = tl.load(SLOPES_H + heads, mask=is_row, other=0.0).to(tl.float32)[:, None]

    first = split * positions_each
    last = tl.minimum(first + positions_each, length)
    if WINDOWED:
        # Blocks that the window has left behind are not read.
        first = tl.maximum(first, (length - window) // BLOCK_N * BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for start in range(first, last, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        seen = cols < last
        if WINDOWED:
            seen = seen & (length - cols <= window)
        page = tl.load(TABLE + sequence * table_row + cols // PAGE, mask=seen, other=0)
        page = page.to(tl.int64)
        within = cols % PAGE
        is_there = seen[:, None] & is_dim[None, :]
        k_at = KEYS + (page * k_page + within * k_at_stride + key_head * k_head)[:, None]
        k = tl.load(k_at + dims[None, :], mask=is_there, other=0.0).to(q.dtype)
        product = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        s_at = page * s_page + within * s_at_stride + key_head
        if SCALED:
            product *= tl.load(K_SCALES + s_at, mask=seen, other=0.0)[None, :]
        scores, _ = _scores(
            product, length - 1, cols[None, :], slope, scale, softcap, SOFTCAP, SLOPES
        )
        scores = tl.where(seen[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.math.exp2(scores - base[:, None])
        shrink = tl.math.exp2(top - base)
        total = total * shrink + tl.sum(weights, 1)
        if SCALED:
            weights *= tl.load(V_SCALES + s_at, mask=seen, other=0.0)[None, :]
        v_at = VALUES + (page * v_page + within * v_at_stride + key_head * v_head)[:, None]
        v = tl.load(v_at + dims[None, :], mask=is_there, other=0.0).to(q.dtype)
        acc = tl.dot(weights.to(q.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
        top = new_top
    has_keys = total > 0
    safe = tl.where(has_keys, total, 1.0)
    part = (sequence.to(tl.int64) * HEADS + heads) * SPLITS + split
    tl.store(
        PARTS + part[:, None] * HEAD_DIM + dims[None, :],
        acc / safe[:, None],
        mask=is_row[:, None] & is_dim[None, :],
    )
    lse = tl.where(has_keys, top + tl.math.log2(safe), float("-inf"))
    tl.store(LSES + part, lse, mask=is_row)


@triton.jit
def combine_kernel(
    PARTS, LSES, SINKS_H, OUT, OUT_LSES, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, SPLITS: tl.constexpr, BLOCK_X: tl.constexpr, SINKS: tl.constexpr,
):  # fmt: skip
    """The splits of one head of one sequence, and its sink."""
    program = tl.program_id(0)
    splits = tl.arange(0, BLOCK_X)
    dims = tl.arange(0, BLOCK_D)
    at = program.to(tl.int64) * SPLITS + splits
    lses = tl.load(LSES + at, mask=splits < SPLITS, other=float("-inf"))
    top = tl.max(lses, 0)
    if SINKS:
        sink = tl.load(SINKS_H + program % HEADS).to(tl.float32) * LOG2E
        top = tl.maximum(top, sink)
    base = tl.where(top == float("-inf"), 0.0, top)
    shares = tl.math.exp2(lses - base)
    total = tl.sum(shares, 0)
    if SINKS:
        total += tl.math.exp2(sink - base)
    is_there = (splits < SPLITS)[:, None] & (dims < HEAD_DIM)[None, :]
    parts = tl.load(PARTS + at[:, None] * HEAD_DIM + dims[None, :], mask=is_there, other=0.0)
    safe = tl.where(total > 0, total, 1.0)
    out = tl.sum(parts * shares[:, None], 0) / safe
    lse = tl.where(total > 0, (base + tl.math.log2(safe)) * LN2, float("-inf"))
    out_at = OUT + program.to(tl.int64) * HEAD_DIM + dims
    tl.store(out_at, out.to(OUT.dtype.element_ty), mask=dims < HEAD_DIM)
    tl.store(OUT_LSES + program, lse)


def decode_config(head_dim: int) -> Config:
    """32 positions, of large heads 16: blocks are many rather than large. 64 spill on gfx942 where
    elements are int8 or fp8."""
    positions = 32 if power_of_two(head_dim) <= 128 else 16
    return Config(blocks={"BLOCK_N": positions}, num_warps=4, num_stages=2)


def choose_splits(programs: int, most_positions: int, multiprocessors: int) -> int:
    """Until each multiprocessor has two programs, none with fewer than LEAST_POSITIONS."""
    wanted = max(1, 2 * multiprocessors // max(1, programs))
    return max(1, min(wanted, most_positions // LEAST_POSITIONS, MOST_SPLITS))


def paged_attention(
    q_BHD: torch.Tensor,
    cache: PagedCache,
    most_positions: int,
    masking: Masking,
    scale: float,
    *,
    config: Config | None = None,
    splits: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (B, H, D) in the dtype of q, and the log-sum-exp of the scores, (B, H) fp32.

    most_positions: at least the longest of lengths, known without asking the GPU. A sequence of
    length 0 gives zeros and -inf.
    """
    B, H, D = q_BHD.shape
    keys, values = cache.keys_PSKD, cache.values_PSKD
    S, K = keys.shape[1:3]
    out = torch.empty((B, H, D), dtype=q_BHD.dtype, device=q_BHD.device)
    out_lses = torch.empty((B, H), dtype=torch.float32, device=q_BHD.device)
    if not out.numel():
        return out, out_lses
    config = config or decode_config(D)
    splits = splits or choose_splits(B * K, most_positions, num_multiprocessors(q_BHD.device))
    block = config.blocks["BLOCK_N"]
    positions_each = max(1, triton.cdiv(triton.cdiv(most_positions, splits), block)) * block
    parts = torch.empty((B, H, splits, D), dtype=torch.float32, device=q_BHD.device)
    lses = torch.empty((B, H, splits), dtype=torch.float32, device=q_BHD.device)
    k_scales, v_scales = cache.k_scales_PSK, cache.v_scales_PSK
    scales = lses if k_scales is None else k_scales
    paged_attention_kernel[(K, splits, B)](
        q_BHD, keys, values, scales, lses if v_scales is None else v_scales,
        cache.table_BN, cache.lengths_B,
        lses if masking.slopes_H is None else masking.slopes_H, parts, lses,
        scale, masking.softcap or 0.0, masking.window or 0, positions_each,
        q_BHD.stride(0), q_BHD.stride(1), *keys.stride()[:3], *values.stride()[:3],
        *scales.stride()[:2], cache.table_BN.stride(0),
        HEADS=H, GROUP=H // K, PAGE=S, HEAD_DIM=D, BLOCK_D=power_of_two(D),
        BLOCK_M=power_of_two(H // K), SPLITS=splits, SCALED=k_scales is not None,
        WINDOWED=masking.window is not None, SOFTCAP=masking.softcap is not None,
        SLOPES=masking.slopes_H is not None, PRECISION=precision(q_BHD.dtype),
        **config.keywords(),
    )  # fmt: skip
    combine_kernel[(B * H,)](
        parts, lses, lses if masking.sinks_H is None else masking.sinks_H, out, out_lses,
        HEADS=H, HEAD_DIM=D, BLOCK_D=power_of_two(D), SPLITS=splits,
        BLOCK_X=power_of_two(splits, 1), SINKS=masking.sinks_H is not None, num_warps=4,
    )  # fmt: skip
    return out, out_lses
