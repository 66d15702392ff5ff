"""The backward of flash attention (Dao 2023); names and shapes as in attention.py.

With weights p = softmax(scores) made again from the stored log-sum-exps and a gradient g of the
output: dv = p^T g, ds = p (g v^T - delta) with delta = sum of output * g, dk = ds^T q, dq = ds k.
One kernel takes a block of keys and all queries that see it, another a block of queries and all
keys that it sees: sums are in a fixed order, without atomics, so that a step can be repeated bit
for bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmtools.triton_kernels.attention import LOG2E, _is_seen, _scores, switches
from llmtools.triton_kernels.attention_configs import attention_configs
from llmtools.triton_kernels.launch import Config, power_of_two
from llmtools.triton_kernels.masking import Masking


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
    configs = attention_configs(D, q_THD.dtype)
    of_kv, of_q = config or configs.grad_kv, config or configs.grad_q
    block_m, block_n = of_q.blocks["BLOCK_M"], of_kv.blocks["BLOCK_N"]
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
            dv_token=dv.stride(0), dv_head=dv.stride(1), **strides,
            **switches(q_THD, k_NKD, masking, scale, of_kv),
        )  # fmt: skip
    if T:
        grad_q_kernel[(triton.cdiv(max_queries, block_m), H, documents)](
            q_THD, k_NKD, v_NKD, grad_THD, lse_HT, delta, dq, slopes, q_starts, k_starts,
            dq_token=dq.stride(0), dq_head=dq.stride(1), **strides,
            **switches(q_THD, k_NKD, masking, scale, of_q),
        )  # fmt: skip
    if masking.sinks_H is None:
        return dq, dk, dv, None
    # The sink's weight is exp(sink - lse), and its value is nothing.
    taken = torch.exp(masking.sinks_H.float()[:, None] - lse_HT)
    return dq, dk, dv, -(taken * delta).sum(1).to(masking.sinks_H.dtype)
