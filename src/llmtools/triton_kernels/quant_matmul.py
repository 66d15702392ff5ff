"""Products with weights of 4 or 8 bits, decoded on the way into the matrix unit: y = x W + b.

    M  rows of activations     K  inputs     N  outputs

The layout is that of ops.packed_weight: inputs in runs of 64; of a run, bytes of 4-bit codes hold
input j low and input j + 32 high, so that each half of a run is one tile of codes with one row of
scales (a group is a multiple of 32), and no tile is ever interleaved:

    w = scale * (code - zero)        or, with a table of 16 values,        w = scale * table[code]

Many outputs share few tiles when M is small. The inputs are then split between programs, whose
sums are kept apart in fp32 and added in a fixed order, without atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmtools.triton_kernels.launch import Config, num_multiprocessors, precision

RUN = tl.constexpr(64)
HALF = tl.constexpr(32)
# A split has at least this many runs of inputs: less is not worth a second pass over the sums.
LEAST_RUNS = 8


@triton.jit
def _decoded(
    codes, SCALES, ZEROS, TABLE, group, cols, is_there, N,
    BITS: tl.constexpr, HAS_ZEROS: tl.constexpr, HAS_TABLE: tl.constexpr,
):  # fmt: skip
    """Weights [HALF, BLOCK_N] in fp32 of codes of one group."""
    at = group * N + cols
    scale = tl.load(SCALES + at, mask=is_there, other=0.0).to(tl.float32)
    if HAS_TABLE:
        return tl.load(TABLE + codes).to(tl.float32) * scale[None, :]
    wide = codes.to(tl.float32)
    if HAS_ZEROS:
        zero = tl.load(ZEROS + at, mask=is_there, other=0.0).to(tl.float32)
        return (wide - zero[None, :]) * scale[None, :]
    return (wide - (1 << (BITS - 1))) * scale[None, :]


@triton.jit
def _halves(
    CODES, SCALES, ZEROS, TABLE, run, cols, is_there, N,
    GROUP_SIZE: tl.constexpr, BITS: tl.constexpr, HAS_ZEROS: tl.constexpr, HAS_TABLE: tl.constexpr,
):  # fmt: skip
    """The weights of a run of inputs: those of its first half and those of its second."""
    rows = tl.arange(0, HALF)[:, None]
    if BITS == 4:
        at = CODES + (rows + run * HALF).to(tl.int64) * N + cols[None, :]
        both = tl.load(at, mask=is_there[None, :], other=0)
        low, high = both & 15, both >> 4
    else:
        at = CODES + (rows + run * RUN).to(tl.int64) * N + cols[None, :]
        low = tl.load(at, mask=is_there[None, :], other=0)
        high = tl.load(at + HALF * N, mask=is_there[None, :], other=0)
    first, second = run * RUN // GROUP_SIZE, (run * RUN + HALF) // GROUP_SIZE
    w_low = _decoded(
        low, SCALES, ZEROS, TABLE, first, cols, is_there, N, BITS, HAS_ZEROS, HAS_TABLE
    )
    w_high = _decoded(
        high, SCALES, ZEROS, TABLE, second, cols, is_there, N, BITS, HAS_ZEROS, HAS_TABLE
    )
    return w_low, w_high


@triton.jit
def quant_matmul_kernel(
    X, CODES, SCALES, ZEROS, TABLE, BIAS, OUT,
    M, N, K, x_row, out_split, runs_each,
    GROUP_SIZE: tl.constexpr, BITS: tl.constexpr, HAS_ZEROS: tl.constexpr,
    HAS_TABLE: tl.constexpr, HAS_BIAS: tl.constexpr, WHOLE_RUNS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TALL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of the product over one split of the inputs.

    Tiles are walked in bands of TALL rows, so that neighbours in time share weights and rows.
    """
    tile, split = tl.program_id(0), tl.program_id(1)
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    band = tile // (TALL * tiles_n)
    height = tl.minimum(tiles_m - band * TALL, TALL)
    within = tile % (TALL * tiles_n)
    rows = (band * TALL + within % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = (within // height) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_col = cols < N
    ks = tl.arange(0, HALF)
    x_at = X + rows.to(tl.int64)[:, None] * x_row + ks[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    last = tl.minimum((split + 1) * runs_each, tl.cdiv(K, RUN))
    for run in range(split * runs_each, last):
        w_low, w_high = _halves(
            CODES, SCALES, ZEROS, TABLE, run, cols, is_col, N,
            GROUP_SIZE, BITS, HAS_ZEROS, HAS_TABLE,
        )  # fmt: skip
        if WHOLE_RUNS:
            low_there = (rows < M)[:, None]
            high_there = low_there
        else:
            low_there = (rows < M)[:, None] & (ks + run * RUN < K)[None, :]
            high_there = (rows < M)[:, None] & (ks + run * RUN + HALF < K)[None, :]
        x_low = tl.load(x_at + run * RUN, mask=low_there, other=0.0)
        x_high = tl.load(x_at + run * RUN + HALF, mask=high_there, other=0.0)
        acc = tl.dot(x_low, w_low.to(x_low.dtype), acc, input_precision=PRECISION)
        acc = tl.dot(x_high, w_high.to(x_high.dtype), acc, input_precision=PRECISION)
    if HAS_BIAS:
        acc += tl.load(BIAS + cols, mask=is_col, other=0.0).to(tl.float32)[None, :]
    out_at = OUT + split.to(tl.int64) * out_split + rows.to(tl.int64)[:, None] * N + cols[None, :]
    tl.store(out_at, acc.to(OUT.dtype.element_ty), mask=(rows < M)[:, None] & is_col[None, :])


@triton.jit
def quant_gemv_kernel(
    X, CODES, SCALES, ZEROS, TABLE, BIAS, OUT,
    N, K, out_split, runs_each,
    GROUP_SIZE: tl.constexpr, BITS: tl.constexpr, HAS_ZEROS: tl.constexpr,
    HAS_TABLE: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One row of activations: bound by reading the codes, so it multiplies in fp32 and the lanes
    of a tile are summed once, behind the loop."""
    split = tl.program_id(1)
    cols = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_col = cols < N
    ks = tl.arange(0, HALF)
    acc = tl.zeros([HALF, BLOCK_N], tl.float32)
    last = tl.minimum((split + 1) * runs_each, tl.cdiv(K, RUN))
    for run in range(split * runs_each, last):
        w_low, w_high = _halves(
            CODES, SCALES, ZEROS, TABLE, run, cols, is_col, N,
            GROUP_SIZE, BITS, HAS_ZEROS, HAS_TABLE,
        )  # fmt: skip
        k = ks + run * RUN
        x_low = tl.load(X + k, mask=k < K, other=0.0).to(tl.float32)
        x_high = tl.load(X + k + HALF, mask=k + HALF < K, other=0.0).to(tl.float32)
        acc += x_low[:, None] * w_low + x_high[:, None] * w_high
    out = tl.sum(acc, 0)
    if HAS_BIAS:
        out += tl.load(BIAS + cols, mask=is_col, other=0.0).to(tl.float32)
    out_at = OUT + split.to(tl.int64) * out_split + cols
    tl.store(out_at, out.to(OUT.dtype.element_ty), mask=is_col)


@triton.jit
def add_splits_kernel(
    PARTS, BIAS, OUT, size, N, num_splits, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr
):
    """The sums of all splits in their order, and the bias."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_there = at < size
    total = tl.zeros([BLOCK], tl.float32)
    for split in range(num_splits):
        total += tl.load(PARTS + split * size + at, mask=is_there, other=0.0)
    if HAS_BIAS:
        total += tl.load(BIAS + at % N, mask=is_there, other=0.0).to(tl.float32)
    tl.store(OUT + at, total.to(OUT.dtype.element_ty), mask=is_there)


def matmul_config(num_rows: int) -> Config:
    """Tiles as tall as the rows fill, up to the 128 x 128 that eight warps hold in registers."""
    if num_rows <= 16:
        return Config(blocks={"BLOCK_M": 16, "BLOCK_N": 64}, num_warps=4, num_stages=3)
    if num_rows <= 64:
        rows = 32 if num_rows <= 32 else 64
        return Config(blocks={"BLOCK_M": rows, "BLOCK_N": 64}, num_warps=4, num_stages=3)
    return Config(blocks={"BLOCK_M": 128, "BLOCK_N": 128}, num_warps=8, num_stages=2)


def gemv_config() -> Config:
    """32 columns: each row of a tile is one sector of 32 bytes; 64 spill on sm_100."""
    return Config(blocks={"BLOCK_N": 32}, num_warps=4, num_stages=2)


def choose_splits(num_tiles: int, num_runs: int, multiprocessors: int) -> int:
    """How many programs share the inputs of a tile: until each multiprocessor has two programs."""
    wanted = max(1, 2 * multiprocessors // max(1, num_tiles))
    return max(1, min(wanted, num_runs // LEAST_RUNS, 32))


def quant_matmul(
    x_MK: torch.Tensor,
    codes: torch.Tensor,
    scales_GN: torch.Tensor,
    zeros_GN: torch.Tensor | None,
    table: torch.Tensor | None,
    bias_N: torch.Tensor | None,
    *,
    bits: int,
    group_size: int,
    config: Config | None = None,
    splits: int | None = None,
) -> torch.Tensor:
    """x W + b, (M, N) in the dtype of x; rows of x are contiguous.

    codes, scales, zeros, table: the parts of an ops.PackedWeight. config None: gemv for one row.
    splits: programs that share the inputs of a tile; None chooses.
    """
    M, K = x_MK.shape
    N = codes.shape[1]
    out = torch.empty((M, N), dtype=x_MK.dtype, device=x_MK.device)
    if not out.numel():
        return out
    is_row = M == 1 and config is None
    config = config or (gemv_config() if is_row else matmul_config(M))
    runs = triton.cdiv(K, RUN.value)
    tiles = triton.cdiv(N, config.blocks["BLOCK_N"])
    if not is_row:
        tiles *= triton.cdiv(M, config.blocks["BLOCK_M"])
    splits = splits or choose_splits(tiles, runs, num_multiprocessors(x_MK.device))
    runs_each = max(1, triton.cdiv(runs, splits))
    splits = max(1, triton.cdiv(runs, runs_each))
    is_split = splits > 1
    parts = out
    if is_split:
        parts = torch.empty((splits, M, N), dtype=torch.float32, device=x_MK.device)
    bias = out if bias_N is None else bias_N
    shared = {
        "N": N, "K": K, "out_split": M * N, "runs_each": runs_each,
        "GROUP_SIZE": group_size, "BITS": bits, "HAS_ZEROS": zeros_GN is not None,
        "HAS_TABLE": table is not None, "HAS_BIAS": bias_N is not None and not is_split,
        **config.keywords(),
    }  # fmt: skip
    weight = (
        codes,
        scales_GN,
        scales_GN if zeros_GN is None else zeros_GN,
        scales_GN if table is None else table,
        bias,
    )
    if is_row:
        quant_gemv_kernel[(tiles, splits)](x_MK, *weight, parts, **shared)
    else:
        quant_matmul_kernel[(tiles, splits)](
            x_MK, *weight, parts, M=M, x_row=x_MK.stride(0), WHOLE_RUNS=K % RUN.value == 0,
            TALL=8, PRECISION=precision(x_MK.dtype), **shared,
        )  # fmt: skip
    if is_split:
        add_splits_kernel[(triton.cdiv(M * N, 1024),)](
            parts, bias, out, M * N, N, splits, HAS_BIAS=bias_N is not None, BLOCK=1024,
            num_warps=4,
        )  # fmt: skip
    return out
