"""Flash attention over packed documents, forward and backward (Dao 2023).

Document b has queries q[q_starts[b]:q_starts[b + 1]] and keys k[k_starts[b]:k_starts[b + 1]]. Its
last query stands at its last key: query i sees keys up to i + shift, with shift = keys - queries,
so that new queries behind a cached prefix need nothing special.

    T  queries of all documents     N  keys of all documents     B  documents
    H  query heads                  K  key heads, H = GROUP * K   D  head size

Scores are kept in base 2 (exp2 is one instruction on GPUs); what is stored is in natural units.
The backward sums in a fixed order, without atomics, so a step can be repeated bit for bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

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


@triton.jit
def delta_kernel(
    OUT, GRAD, DELTA, num_rows, o_token, o_head, g_token, g_head, delta_head,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """delta = sum over the head's dimensions of output times its gradient."""
    block, head = tl.program_id(0), tl.program_id(1)
    at = block * BLOCK_M + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    is_there = (at < num_rows)[:, None] & (dims < HEAD_DIM)[None, :]
    rows = at.to(tl.int64)[:, None]
    out = tl.load(
        OUT + rows * o_token + head * o_head + dims[None, :], mask=is_there, other=0.0
    ).to(tl.float32)
    grad = tl.load(
        GRAD + rows * g_token + head * g_head + dims[None, :], mask=is_there, other=0.0
    ).to(tl.float32)
    tl.store(DELTA + head.to(tl.int64) * delta_head + at, tl.sum(out * grad, 1), mask=at < num_rows)


@triton.jit
def _weights(
    q, k, lse, rows, cols, q_there, k_len, slope, scale, softcap, window,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, SOFTCAP: tl.constexpr, SLOPES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Softmax weights [BLOCK_M, BLOCK_N] made again from the stored LSE, and the capping tanh."""
    product = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    scores, capped = _scores(product, rows, cols, slope, scale, softcap, SOFTCAP, SLOPES)
    seen = _is_seen(rows, cols, k_len, window, CAUSAL, WINDOWED) & q_there
    base = tl.where(lse == float("-inf"), 0.0, lse) * LOG2E
    return tl.where(seen, tl.math.exp2(scores - base[:, None]), 0.0), capped


@triton.jit
def grad_kv_kernel(
    Q, K, V, GRAD, LSE, DELTA, DK, DV, SLOPES_H, Q_STARTS, K_STARTS,
    scale, softcap, window,
    q_token, q_head, k_token, k_head, v_token, v_head, g_token, g_head, dk_token, dk_head,
    dv_token, dv_head, lse_head,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, SOFTCAP: tl.constexpr, SLOPES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of keys and values: all queries of all heads that read them."""
    block, key_head, document = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    k_start = tl.load(K_STARTS + document)
    k_len = tl.load(K_STARTS + document + 1) - k_start
    low = block * BLOCK_N
    if low >= k_len:
        return
    q_start = tl.load(Q_STARTS + document)
    q_len = tl.load(Q_STARTS + document + 1) - q_start
    shift = k_len - q_len
    cols = low + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    is_key = (cols < k_len)[:, None] & (dims < HEAD_DIM)[None, :]
    k_at = K + k_start.to(tl.int64) * k_token + key_head * k_head
    v_at = V + k_start.to(tl.int64) * v_token + key_head * v_head
    k = tl.load(k_at + cols[:, None] * k_token + dims[None, :], mask=is_key, other=0.0)
    v = tl.load(v_at + cols[:, None] * v_token + dims[None, :], mask=is_key, other=0.0)

    first = tl.maximum(low - shift, 0) // BLOCK_M * BLOCK_M if CAUSAL else 0
    last = tl.minimum(q_len, low + BLOCK_N - 1 + window - shift) if WINDOWED else q_len
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for member in range(GROUP):
        head = key_head * GROUP + member
        slope = tl.load(SLOPES_H + head).to(tl.float32) if SLOPES else 0.0
        q_at = Q + q_start.to(tl.int64) * q_token + head * q_head
        g_at = GRAD + q_start.to(tl.int64) * g_token + head * g_head
        row_at = head.to(tl.int64) * lse_head + q_start
        for start in range(first, last, BLOCK_M):
            at = start + tl.arange(0, BLOCK_M)
            is_query = (at < q_len)[:, None] & (dims < HEAD_DIM)[None, :]
            q = tl.load(q_at + at[:, None] * q_token + dims[None, :], mask=is_query, other=0.0)
            grad = tl.load(g_at + at[:, None] * g_token + dims[None, :], mask=is_query, other=0.0)
            lse = tl.load(LSE + row_at + at, mask=at < q_len, other=0.0)
            delta = tl.load(DELTA + row_at + at, mask=at < q_len, other=0.0)
            weights, capped = _weights(
                q, k, lse, (at + shift)[:, None], cols[None, :], (at < q_len)[:, None], k_len,
                slope, scale, softcap, window, CAUSAL, WINDOWED, SOFTCAP, SLOPES, PRECISION,
            )  # fmt: skip
            dv += tl.dot(tl.trans(weights.to(grad.dtype)), grad, input_precision=PRECISION)
            dp = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
            ds = weights * (dp - delta[:, None])
            if SOFTCAP:
                ds = ds * (1 - capped * capped)
            dk += tl.dot(tl.trans(ds.to(q.dtype)), q, input_precision=PRECISION)
    dk_at = DK + k_start.to(tl.int64) * dk_token + key_head * dk_head
    dv_at = DV + k_start.to(tl.int64) * dv_token + key_head * dv_head
    tl.store(
        dk_at + cols[:, None] * dk_token + dims[None, :],
        (dk * scale).to(DK.dtype.element_ty),
        mask=is_key,
    )
    tl.store(
        dv_at + cols[:, None] * dv_token + dims[None, :], dv.to(DV.dtype.element_ty), mask=is_key
    )


@triton.jit
def grad_q_kernel(
    Q, K, V, GRAD, LSE, DELTA, DQ, SLOPES_H, Q_STARTS, K_STARTS,
    scale, softcap, window,
    q_token, q_head, k_token, k_head, v_token, v_head, g_token, g_head, dq_token, dq_head,
    lse_head,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, SOFTCAP: tl.constexpr, SLOPES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of queries of one head."""
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
    g_at = GRAD + q_start.to(tl.int64) * g_token + head * g_head
    k_at = K + k_start.to(tl.int64) * k_token + (head // GROUP) * k_head
    v_at = V + k_start.to(tl.int64) * v_token + (head // GROUP) * v_head
    q = tl.load(q_at + at[:, None] * q_token + dims[None, :], mask=is_query, other=0.0)
    grad = tl.load(g_at + at[:, None] * g_token + dims[None, :], mask=is_query, other=0.0)
    row_at = head.to(tl.int64) * lse_head + q_start
    lse = tl.load(LSE + row_at + at, mask=at < q_len, other=0.0)
    delta = tl.load(DELTA + row_at + at, mask=at < q_len, other=0.0)
    slope = tl.load(SLOPES_H + head).to(tl.float32) if SLOPES else 0.0

    low, high = block * BLOCK_M + shift, (block + 1) * BLOCK_M + shift
    first = tl.maximum(low - window + 1, 0) // BLOCK_N * BLOCK_N if WINDOWED else 0
    last = tl.minimum(k_len, tl.maximum(high, 0)) if CAUSAL else k_len
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(first, last, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        is_key = (cols < k_len)[:, None] & (dims < HEAD_DIM)[None, :]
        k = tl.load(k_at + cols[:, None] * k_token + dims[None, :], mask=is_key, other=0.0)
        v = tl.load(v_at + cols[:, None] * v_token + dims[None, :], mask=is_key, other=0.0)
        weights, capped = _weights(
            q, k, lse, (at + shift)[:, None], cols[None, :], (at < q_len)[:, None], k_len,
            slope, scale, softcap, window, CAUSAL, WINDOWED, SOFTCAP, SLOPES, PRECISION,
        )  # fmt: skip
        dp = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
        ds = weights * (dp - delta[:, None])
        if SOFTCAP:
            ds = ds * (1 - capped * capped)
        dq += tl.dot(ds.to(k.dtype), k, input_precision=PRECISION)
    dq_at = DQ + q_start.to(tl.int64) * dq_token + head * dq_head
    tl.store(
        dq_at + at[:, None] * dq_token + dims[None, :],
        (dq * scale).to(DQ.dtype.element_ty),
        mask=is_query,
    )


def forward_config(head_dim: int, dtype: torch.dtype) -> Config:
    """Blocks of 128 queries; fewer keys where a head or its elements are large."""
    size = power_of_two(head_dim) * dtype.itemsize
    if size <= 128:
        return Config(blocks={"BLOCK_M": 128, "BLOCK_N": 64}, num_warps=4, num_stages=3)
    if size <= 256:
        return Config(blocks={"BLOCK_M": 128, "BLOCK_N": 64}, num_warps=8, num_stages=2)
    return Config(blocks={"BLOCK_M": 64, "BLOCK_N": 32}, num_warps=8, num_stages=2)


def backward_config(head_dim: int, dtype: torch.dtype) -> Config:
    """Four products a step hold more than the forward's two, so the blocks are smaller."""
    size = power_of_two(head_dim) * dtype.itemsize
    if size <= 128:
        return Config(blocks={"BLOCK_M": 64, "BLOCK_N": 64}, num_warps=4, num_stages=2)
    if size <= 256:
        return Config(blocks={"BLOCK_M": 64, "BLOCK_N": 64}, num_warps=8, num_stages=2)
    return Config(blocks={"BLOCK_M": 32, "BLOCK_N": 32}, num_warps=8, num_stages=1)


def _switches(
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
    config = config or forward_config(D, q_THD.dtype)
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
        **_switches(q_THD, k_NKD, masking, scale, config),
    )  # fmt: skip
    return out, lse


def attention_backward(
    grad_THD: torch.Tensor,
    q_THD: torch.Tensor,
    k_NKD: torch.Tensor,
    v_NKD: torch.Tensor,
    out_THD: torch.Tensor,
    lse_HT: torch.Tensor,
    q_starts: torch.Tensor,
    k_starts: torch.Tensor,
    max_queries: int,
    max_keys: int,
    masking: Masking,
    scale: float,
    config: Config | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of q, k, v and of the sinks, None where there are none; see attention_forward."""
    T, H, D = q_THD.shape
    documents = q_starts.numel() - 1
    dq = torch.empty((T, H, D), dtype=q_THD.dtype, device=q_THD.device)
    dk = torch.empty(k_NKD.shape, dtype=k_NKD.dtype, device=k_NKD.device)
    dv = torch.empty(v_NKD.shape, dtype=v_NKD.dtype, device=v_NKD.device)
    delta = torch.empty_like(lse_HT)
    config = config or backward_config(D, q_THD.dtype)
    block_m, block_n = config.blocks["BLOCK_M"], config.blocks["BLOCK_N"]
    shared = _switches(q_THD, k_NKD, masking, scale, config)
    if T:
        delta_kernel[(triton.cdiv(T, block_m), H)](
            out_THD, grad_THD, delta, T,
            out_THD.stride(0), out_THD.stride(1), grad_THD.stride(0), grad_THD.stride(1),
            delta.stride(0), HEAD_DIM=D, BLOCK_D=power_of_two(D), BLOCK_M=block_m,
            num_warps=4,
        )  # fmt: skip
    slopes = lse_HT if masking.slopes_H is None else masking.slopes_H
    strides = {
        "q_token": q_THD.stride(0), "q_head": q_THD.stride(1),
        "k_token": k_NKD.stride(0), "k_head": k_NKD.stride(1),
        "v_token": v_NKD.stride(0), "v_head": v_NKD.stride(1),
        "g_token": grad_THD.stride(0), "g_head": grad_THD.stride(1),
        "lse_head": lse_HT.stride(0),
    }  # fmt: skip
    if dk.numel():
        grad_kv_kernel[(triton.cdiv(max_keys, block_n), k_NKD.shape[1], documents)](
            q_THD, k_NKD, v_NKD, grad_THD, lse_HT, delta, dk, dv, slopes, q_starts, k_starts,
            dk_token=dk.stride(0), dk_head=dk.stride(1),
            dv_token=dv.stride(0), dv_head=dv.stride(1), **strides, **shared,
        )  # fmt: skip
    if T:
        grad_q_kernel[(triton.cdiv(max_queries, block_m), H, documents)](
            q_THD, k_NKD, v_NKD, grad_THD, lse_HT, delta, dq, slopes, q_starts, k_starts,
            dq_token=dq.stride(0), dq_head=dq.stride(1), **strides, **shared,
        )  # fmt: skip
    if masking.sinks_H is None:
        return dq, dk, dv, None
    # The sink's weight is exp(sink - lse), and its value is nothing.
    taken = torch.exp(masking.sinks_H.float()[:, None] - lse_HT)
    return dq, dk, dv, -(taken * delta).sum(1).to(masking.sinks_H.dtype)
