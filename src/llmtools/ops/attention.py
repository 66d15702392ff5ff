"""Attention inside each of consecutive documents, with every masking.

T queries and N keys of all documents, B documents, H query heads, K key/value heads (H is a
multiple of K), D head size. The last query of a document stands at its last key: query i sees keys
up to i + keys - queries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from llmtools.ops.attention_kernel import attention_refusal, kernel_attention
from llmtools.ops.path import choose
from llmtools.triton_kernels.masking import Masking

CAUSAL = Masking()
# Queries whose scores are held at a time where torch's own attention does not know the masking.
BLOCK_QUERIES = 256


def attention_reference(
    q_THD: torch.Tensor,
    k_NKD: torch.Tensor,
    v_NKD: torch.Tensor,
    lengths: Sequence[int],
    key_lengths: Sequence[int] | None = None,
    *,
    masking: Masking = CAUSAL,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition in float64: softmax(bent q k^T scale) v inside each document.

    returns: (T, H, D) in the dtype of q, and the log-sum-exp of the scores, (H, T) fp32.
    """
    outs, lses = [], []
    group = q_THD.shape[1] // k_NKD.shape[1]
    scale = q_THD.shape[2] ** -0.5 if scale is None else scale
    q_parts = q_THD.double().split(list(lengths))
    k_parts, v_parts = (x.double().split(list(key_lengths or lengths)) for x in (k_NKD, v_NKD))
    for q_part, k_part, v_part in zip(q_parts, k_parts, v_parts, strict=True):
        q, k, v = (x.transpose(0, 1) for x in (q_part, k_part, v_part))
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        scores = q @ k.transpose(1, 2) * scale
        if masking.softcap:
            scores = masking.softcap * torch.tanh(scores / masking.softcap)
        cols = torch.arange(len(k_part), device=q.device)[None]
        rows = torch.arange(len(q_part), device=q.device)[:, None] + len(k_part) - len(q_part)
        if masking.slopes_H is not None:
            scores = scores + masking.slopes_H.double()[:, None, None] * (cols - rows)
        seen = torch.ones_like(scores[0], dtype=torch.bool)
        if masking.causal:
            seen &= cols <= rows
        if masking.window is not None:
            seen &= rows - cols < masking.window
        scores = scores.masked_fill(~seen, -math.inf)
        if masking.sinks_H is not None:
            sinks = masking.sinks_H.double()[:, None, None].expand(-1, len(q_part), 1)
            scores = torch.cat([scores, sinks], -1)
        lse = scores.logsumexp(-1)
        base = torch.where(lse == -math.inf, 0.0, lse)
        weights = torch.exp(scores - base[..., None])[..., : len(k_part)]
        outs.append((weights @ v).transpose(0, 1))
        lses.append(lse)
    return torch.cat(outs).to(q_THD.dtype), torch.cat(lses, 1).float()


def attention(
    q_THD: torch.Tensor,
    k_NKD: torch.Tensor,
    v_NKD: torch.Tensor,
    lengths: Sequence[int],
    key_lengths: Sequence[int] | None = None,
    *,
    masking: Masking = CAUSAL,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention inside each of consecutive documents; none sees another.

    lengths, key_lengths: queries and keys of each document in order, sums T and N; without
    key_lengths the two are the same. masking: causal, window, soft cap, ALiBi, sinks; a query that
    sees no key gives zeros. scale: of the scores, by default 1 / sqrt(D). returns: (T, H, D).
    """
    scale = q_THD.shape[2] ** -0.5 if scale is None else scale
    keys = lengths if key_lengths is None else key_lengths
    way = choose("attention", q_THD, lambda: attention_refusal(q_THD, k_NKD, v_NKD))
    has_more_queries = any(n > m for n, m in zip(lengths, keys, strict=True))
    if way != "native" or not _is_plain(masking) or has_more_queries:
        out, _ = attention_and_lse(q_THD, k_NKD, v_NKD, lengths, keys, masking=masking, scale=scale)
        return out
    if len(set(lengths)) == 1 and len(set(keys)) == 1:
        return _plain(q_THD, k_NKD, v_NKD, len(lengths), masking.causal, scale)
    # Each document alone: on CPU that is 1.4x faster than one block-diagonal mask (forward and
    # backward of 2,048 tokens in 8 documents). torch.split keeps the backward linear; slicing
    # would add a full-size gradient for every document.
    parts = zip(
        q_THD.split(list(lengths)), k_NKD.split(list(keys)), v_NKD.split(list(keys)), strict=True
    )
    return torch.cat([_plain(q, k, v, 1, masking.causal, scale) for q, k, v in parts])


def attention_and_lse(
    q_THD: torch.Tensor,
    k_NKD: torch.Tensor,
    v_NKD: torch.Tensor,
    lengths: Sequence[int],
    key_lengths: Sequence[int] | None = None,
    *,
    masking: Masking = CAUSAL,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `attention`, and the log-sum-exp of the scores, (H, T) fp32 without a gradient, with which
    attention over other keys of the same queries is merged; -inf where no key is seen."""
    scale = q_THD.shape[2] ** -0.5 if scale is None else scale
    keys = lengths if key_lengths is None else key_lengths
    way = choose("attention", q_THD, lambda: attention_refusal(q_THD, k_NKD, v_NKD))
    if way == "reference":
        named: dict[str, Any] = {"masking": masking, "scale": scale}
        out, lse = attention_reference(q_THD, k_NKD, v_NKD, lengths, keys, **named)
    else:
        run = kernel_attention if way == "triton" else _explicit
        out, lse = run(q_THD, k_NKD, v_NKD, lengths, keys, masking, scale)
    return out, lse.detach()


def _is_plain(masking: Masking) -> bool:
    """Whether torch's own attention knows it."""
    bent = (masking.window, masking.softcap, masking.slopes_H, masking.sinks_H)
    return all(part is None for part in bent)


def _plain(
    q_THD: torch.Tensor,
    k_NKD: torch.Tensor,
    v_NKD: torch.Tensor,
    rows: int,
    causal: bool,
    scale: float,
) -> torch.Tensor:
    """`rows` documents of one length each by torch's attention."""
    T, H, D = q_THD.shape
    queries, keys, K = T // rows, k_NKD.shape[0] // rows, k_NKD.shape[1]
    k, v = (x.view(rows, keys, K, D).transpose(1, 2) for x in (k_NKD, v_NKD))
    if queries == 1:
        # One query needs no mask, so the heads that share a key head become its rows.
        q = q_THD.reshape(rows, K, H // K, D)
        return F.scaled_dot_product_attention(q, k, v, scale=scale).reshape(T, H, D)
    q = q_THD.view(rows, queries, H, D).transpose(1, 2)
    mask = None
    if causal and queries != keys:
        # SDPA's is_causal aligns the corner at the top left; a suffix needs it at the bottom right.
        mask = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal and mask is None, scale=scale, enable_gqa=H > K
    )
    return out.transpose(1, 2).reshape(T, H, D)


def _explicit(
    q_THD: torch.Tensor,
    k_NKD: torch.Tensor,
    v_NKD: torch.Tensor,
    lengths: Sequence[int],
    key_lengths: Sequence[int],
    masking: Masking,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every masking, in fp32, for a block of queries and the keys that it can see at a time."""
    outs = [q_THD[:0]]
    lses = [q_THD.new_empty(q_THD.shape[1], 0, dtype=torch.float32)]
    parts = zip(
        q_THD.split(list(lengths)),
        k_NKD.split(list(key_lengths)),
        v_NKD.split(list(key_lengths)),
        strict=True,
    )
    for q_part, k_part, v_part in parts:
        shift = len(k_part) - len(q_part)
        for start in range(0, len(q_part), BLOCK_QUERIES):
            q = q_part[start : start + BLOCK_QUERIES]
            last = max(0, start + len(q) + shift) if masking.causal else len(k_part)
            first = 0 if masking.window is None else max(0, start + shift - masking.window + 1)
            seen = slice(min(first, last), last)
            block, lse = _block(
                q, k_part[seen], v_part[seen], start + shift - seen.start, masking, scale
            )
            outs.append(block)
            lses.append(lse)
    return torch.cat(outs), torch.cat(lses, 1)


def _block(
    q_THD: torch.Tensor,
    k_NKD: torch.Tensor,
    v_NKD: torch.Tensor,
    shift: int,
    masking: Masking,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Query i stands at key i + shift."""
    T, H, D = q_THD.shape
    N, K = k_NKD.shape[:2]
    wide = torch.promote_types(q_THD.dtype, torch.float32)
    q = q_THD.to(wide).view(T, K, H // K, D).permute(1, 2, 0, 3)
    k, v = (x.to(wide).transpose(0, 1)[:, None] for x in (k_NKD, v_NKD))
    scores = (q @ k.transpose(2, 3) * scale).view(H, T, N)
    if masking.softcap is not None:
        scores = masking.softcap * torch.tanh(scores / masking.softcap)
    rows = torch.arange(T, device=q.device)[:, None] + shift
    behind = rows - torch.arange(N, device=q.device)[None]
    if masking.slopes_H is not None:
        scores = scores - masking.slopes_H.to(wide)[:, None, None] * behind
    unseen = torch.zeros_like(behind, dtype=torch.bool)
    if masking.causal:
        unseen |= behind < 0
    if masking.window is not None:
        unseen |= behind >= masking.window
    scores = scores.masked_fill(unseen, -math.inf)
    if masking.sinks_H is not None:
        sinks = masking.sinks_H.to(wide)[:, None, None].expand(-1, T, 1)
        scores = torch.cat([scores, sinks], -1)
    if not scores.shape[-1]:
        return torch.zeros_like(q_THD), q_THD.new_full((H, T), -math.inf, dtype=torch.float32)
    lse = scores.logsumexp(-1)
    weights = (scores - lse.masked_fill(lse == -math.inf, 0.0)[..., None]).exp()[..., :N]
    out = (weights.view(K, H // K, T, N) @ v).permute(2, 0, 1, 3).reshape(T, H, D)
    return out.to(q_THD.dtype), lse.float()
