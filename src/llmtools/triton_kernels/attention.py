"""Flash attention over packed documents (Dao 2023); the backward is in attention_backward.py.

Document b has queries q[q_starts[b]:q_starts[b + 1]] and keys k[k_starts[b]:k_starts[b + 1]]. Its
last query stands at its last key: query i sees keys up to i + shift, with shift = keys - queries,
so that new queries behind a cached prefix need nothing special.

    T  queries of all documents     N  keys of all documents     B  documents
    H  query heads                  K  key heads, H = GROUP * K   D  head size

Scores are kept in base 2 (exp2 is one instruction on GPUs); what is stored is in natural units.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmtools.triton_kernels.attention_configs import attention_configs
from llmtools.triton_kernels.launch import Config, power_of_two, precision
from llmtools.triton_kernels.masking import Masking

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _scores(
    product, rows, cols, slope, scale, softcap, SOFTCAP: tl.constexpr, SLOPES: tl.constexpr
):
    """Base-2 scores of queries at key positions `rows`, and the tanh that capped them."""
    if SOFTCAP:
        capped = _tanh(product * (scale / softcap))
        scores = capped * (softcap * LOG2E)
    else:
        capped = product
        scores = product * (scale * LOG2E)
    if SLOPES:
        scores += (slope * LOG2E) * (cols - rows).to(tl.float32)
    return scores, capped


@triton.jit
def _is_seen(rows, cols, k_len, window, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr):
    """Which keys a query sees; rows: the queries' places among the keys."""
    seen = cols < k_len
    if CAUSAL:
        seen = seen & (cols <= rows)
    if WINDOWED:
        seen = seen & (rows - cols < window)
    return seen


@triton.jit
def _attend(
    acc, top, total, q, k_at, v_at, k_token, v_token, first, last, rows, dims, k_len, slope, scale,
    softcap, window,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr,
    SOFTCAP: tl.constexpr, SLOPES: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Online softmax over the keys first to last, in blocks; returns (acc, top, total)."""
    for start in range(first, last, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        is_there = (cols < k_len)[:, None] & (dims < HEAD_DIM)[None, :]
        k = tl.load(k_at + cols[:, None] * k_token + dims[None, :], mask=is_there, other=0.0)
        product = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        scores, _ = _scores(
            product, rows[:, None], cols[None, :], slope, scale, softcap, SOFTCAP, SLOPES
        )
        if MASKED:
            seen = _is_seen(rows[:, None], cols[None, :], k_len, window, CAUSAL, WINDOWED)
            scores = tl.where(seen, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        # A query that sees nothing yet: -inf less -inf would be no number.
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.math.exp2(scores - base[:, None])
        shrink = tl.math.exp2(top - base)
        total = total * shrink + tl.sum(weights, 1)
        v = tl.load(v_at + cols[:, None] * v_token + dims[None, :], mask=is_there, other=0.0)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
        top = new_top
    return acc, top, total


@triton.jit
def forward_kernel(
    Q, K, V, OUT, LSE, SLOPES_H, SINKS_H, Q_STARTS, K_STARTS,
    scale, softcap, window,
    q_token, q_head, k_token, k_head, v_token, v_head, o_token, o_head, lse_head,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, SOFTCAP: tl.constexpr, SLOPES: tl.constexpr,
    SINKS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of queries of one head and document against all keys they see."""
    block, head, document = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    q_start = tl.load(Q_STARTS + document)
    q_len = tl.load(Q_STARTS + document + 1) - q_start
    if block * BLOCK_M >= q_len:
        return
    k_start = tl.load(K_STARTS + document)
    k_len = tl.load(K_STARTS + document + 1) - k_start
    shift = k_len - q_len
    at = block * BLOCK_M + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    is_query = (at < q_len)[:, None] & (dims < HEAD_DIM)[None, :]
    q_at = Q + q_start.to(tl.int64) * q_token + head * q_head
    k_at = K + k_start.to(tl.int64) * k_token + (head // GROUP) * k_head
    v_at = V + k_start.to(tl.int64) * v_token + (head // GROUP) * v_head
    q = tl.load(q_at + at[:, None] * q_token + dims[None, :], mask=is_query, other=0.0)
    slope = tl.load(SLOPES_H + head).to(tl.float32) if SLOPES else 0.0

    # Blocks of keys at both ends are masked; those between are seen by every query of the block.
    low, high = block * BLOCK_M + shift, (block + 1) * BLOCK_M + shift
    last = tl.minimum(k_len, tl.maximum(high, 0)) if CAUSAL else k_len
    first = tl.maximum(low - window + 1, 0) // BLOCK_N * BLOCK_N if WINDOWED else 0
    whole_first = tl.cdiv(tl.maximum(high - window, 0), BLOCK_N) * BLOCK_N if WINDOWED else 0
    whole_last = tl.minimum(k_len, tl.maximum(low + 1, 0)) if CAUSAL else k_len
    whole_last = tl.maximum(whole_last // BLOCK_N * BLOCK_N, first)
    whole_first = tl.minimum(tl.maximum(whole_first, first), whole_last)

    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if WINDOWED:
        acc, top, total = _attend(
            acc, top, total, q, k_at, v_at, k_token, v_token, first, whole_first, at + shift, dims,
            k_len, slope, scale, softcap, window,
            HEAD_DIM, BLOCK_N, CAUSAL, WINDOWED, SOFTCAP, SLOPES, True, PRECISION,
        )  # fmt: skip
    acc, top, total = _attend(
        acc, top, total, q, k_at, v_at, k_token, v_token, whole_first, whole_last, at + shift, dims,
        k_len, slope, scale, softcap, window,
        HEAD_DIM, BLOCK_N, CAUSAL, WINDOWED, SOFTCAP, SLOPES, False, PRECISION,
    )  # fmt: skip
    acc, top, total = _attend(
        acc, top, total, q, k_at, v_at, k_token, v_token, whole_last, last, at + shift, dims,
        k_len, slope, scale, softcap, window,
        HEAD_DIM, BLOCK_N, CAUSAL, WINDOWED, SOFTCAP, SLOPES, True, PRECISION,
    )  # fmt: skip

    if SINKS:
        sink = tl.load(SINKS_H + head).to(tl.float32) * LOG2E
        new_top = tl.maximum(top, sink)
        shrink = tl.math.exp2(top - new_top)
        total = total * shrink + tl.math.exp2(sink - new_top)
        acc, top = acc * shrink[:, None], new_top
    has_keys = total > 0
    safe = tl.where(has_keys, total, 1.0)
    lse = tl.where(has_keys, (top + tl.math.log2(safe)) * LN2, float("-inf"))
    out = acc / safe[:, None]
    o_at = OUT + q_start.to(tl.int64) * o_token + head * o_head
    tl.store(
        o_at + at[:, None] * o_token + dims[None, :], out.to(OUT.dtype.element_ty), mask=is_query
    )
    tl.store(LSE + head.to(tl.int64) * lse_head + q_start + at, lse, mask=at < q_len)


def switches(
    q: torch.Tensor, k: torch.Tensor, masking: Masking, scale: float, config: Config
) -> dict[str, object]:
    """The arguments that all kernels but delta share."""
    return {
        "scale": scale,
        "softcap": masking.softcap or 0.0,
        "window": masking.window or 0,
        "GROUP": q.shape[1] // k.shape[1],
        "HEAD_DIM": q.shape[2],
        "BLOCK_D": power_of_two(q.shape[2]),
        "CAUSAL": masking.causal,
        "WINDOWED": masking.window is not None,
        "SOFTCAP": masking.softcap is not None,
        "SLOPES": masking.slopes_H is not None,
        "PRECISION": precision(q.dtype),
        **config.keywords(),
    }


def attention_forward(
    q_THD: torch.Tensor,
    k_NKD: torch.Tensor,
    v_NKD: torch.Tensor,
    q_starts: torch.Tensor,
    k_starts: torch.Tensor,
    max_queries: int,
    masking: Masking,
    scale: float,
    config: Config | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (T, H, D) in the dtype of q, and the log-sum-exp of the scores, (H, T) fp32.

    q_starts, k_starts: (B + 1,) int32. A query that sees no key gives zeros and -inf.
    """
    T, H, D = q_THD.shape
    out = torch.empty((T, H, D), dtype=q_THD.dtype, device=q_THD.device)
    lse = torch.empty((H, T), dtype=torch.float32, device=q_THD.device)
    if not out.numel():
        return out, lse
    config = config or attention_configs(D, q_THD.dtype).forward
    grid = (triton.cdiv(max_queries, config.blocks["BLOCK_M"]), H, q_starts.numel() - 1)
    unused = lse
    forward_kernel[grid](
        q_THD, k_NKD, v_NKD, out, lse,
        unused if masking.slopes_H is None else masking.slopes_H,
        unused if masking.sinks_H is None else masking.sinks_H,
        q_starts, k_starts,
        q_token=q_THD.stride(0), q_head=q_THD.stride(1),
        k_token=k_NKD.stride(0), k_head=k_NKD.stride(1),
        v_token=v_NKD.stride(0), v_head=v_NKD.stride(1),
        o_token=out.stride(0), o_head=out.stride(1), lse_head=lse.stride(0),
        SINKS=masking.sinks_H is not None,
        **switches(q_THD, k_NKD, masking, scale, config),
    )  # fmt: skip
    return out, lse
