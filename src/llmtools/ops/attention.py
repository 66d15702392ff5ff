"""Causal attention: over packed documents (training, prefill) and over a key/value cache.

T tokens, H query heads, K key/value heads (H is a multiple of K), D head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F


def attention_reference(
    q_THD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor, lengths: Sequence[int]
) -> torch.Tensor:
    """The definition in float64: softmax(q k^T / sqrt(D)) v, causal, inside each document."""
    T, H, D = q_THD.shape
    group = H // k_TKD.shape[1]
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    at = torch.arange(T)
    allowed = (document[:, None] == document[None, :]) & (at[:, None] >= at[None, :])
    q, k, v = (x.double().transpose(0, 1) for x in (q_THD, k_TKD, v_TKD))
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    scores = (q @ k.transpose(1, 2) / math.sqrt(D)).masked_fill(~allowed, -math.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).to(q_THD.dtype)


def attention(
    q_THD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor, lengths: Sequence[int]
) -> torch.Tensor:
    """Causal attention inside each of consecutive documents; none sees another.

    lengths: tokens of each document in order, all at least 1; their sum is T.
    returns: (T, H, D).

    Equal lengths run as one batch. Otherwise each document runs alone: on CPU that is 1.4x faster
    than one block-diagonal mask (forward and backward of 2,048 tokens in 8 documents). torch.split
    keeps the backward linear; slicing would add a full-size gradient for every document.
    """
    if len(set(lengths)) == 1:
        return _batched(q_THD, k_TKD, v_TKD, len(lengths))
    sizes = list(lengths)
    parts = zip(
        q_THD.split_with_sizes(sizes),
        k_TKD.split_with_sizes(sizes),
        v_TKD.split_with_sizes(sizes),
        strict=True,
    )
    return torch.cat([_batched(q, k, v, 1) for q, k, v in parts])


def _batched(
    q_THD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor, rows: int
) -> torch.Tensor:
    """`rows` documents of one length."""
    T, H, D = q_THD.shape
    q, k, v = (x.view(rows, T // rows, -1, D).transpose(1, 2) for x in (q_THD, k_TKD, v_TKD))
    out = F.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=q.shape[1] > k.shape[1]
    )
    return out.transpose(1, 2).reshape(T, H, D)


def cached_attention(
    q_THD: torch.Tensor, keys_KND: torch.Tensor, values_KND: torch.Tensor
) -> torch.Tensor:
    """The last T of N positions of one sequence attend to all N, causally.

    q_THD: the new queries. keys_KND, values_KND: every position so far, the new ones included.
    returns: (T, H, D).
    """
    T, H, D = q_THD.shape
    K, N, _ = keys_KND.shape
    if T == 1:
        # One query needs no mask, so the heads that share a key head become its rows.
        out = F.scaled_dot_product_attention(
            q_THD.view(1, K, H // K, D), keys_KND[None], values_KND[None]
        )
        return out.view(1, H, D)
    q = q_THD.transpose(0, 1)[None]
    if T == N:
        mask = None
    else:
        # SDPA's is_causal aligns the corner at the top left; a suffix needs it at the bottom right.
        mask = torch.ones(T, N, dtype=torch.bool, device=q.device).tril(N - T)
    out = F.scaled_dot_product_attention(
        q,
        keys_KND[None],
        values_KND[None],
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=H > K,
    )
    return out[0].transpose(0, 1)
