"""Attention of one new token of each sequence over a cache in pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from llmtools.ops.attention import CAUSAL, attention_and_lse, attention_reference
from llmtools.ops.path import FLOATS, choose, dtype_refusal
from llmtools.triton_kernels.limits import LARGEST_HEAD
from llmtools.triton_kernels.masking import Masking
from llmtools.triton_kernels.paged_cache import PagedCache

STORED = (*FLOATS, torch.int8, torch.float8_e4m3fn, torch.float8_e5m2)


def paged_attention(
    q_BHD: torch.Tensor,
    cache: PagedCache,
    most_positions: int,
    *,
    masking: Masking = CAUSAL,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The query of each of B sequences attends to all positions of that sequence.

    most_positions: at least the longest sequence, known without asking a GPU. returns: (B, H, D) in
    the dtype of q, and the log-sum-exp of the scores, (B, H) fp32; 0 and -inf of an empty sequence.
    There is no gradient.
    """
    way = choose("paged_attention", q_BHD, lambda: paged_refusal(q_BHD, cache))
    if way == "triton":
        scale = q_BHD.shape[2] ** -0.5 if scale is None else scale
        found: tuple[torch.Tensor, torch.Tensor] = _op(
            q_BHD.detach(), cache.keys_PSKD, cache.values_PSKD, cache.table_BN, cache.lengths_B,
            cache.k_scales_PSK, cache.v_scales_PSK, most_positions, scale, masking.window,
            masking.softcap, masking.slopes_H, masking.sinks_H,
        )  # fmt: skip
        return found
    run = attention_reference if way == "reference" else attention_and_lse
    return _one_by_one(run, q_BHD, cache, masking, scale)


def paged_attention_reference(
    q_BHD: torch.Tensor,
    cache: PagedCache,
    *,
    masking: Masking = CAUSAL,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition in float64, see paged_attention."""
    return _one_by_one(attention_reference, q_BHD, cache, masking, scale)


def _one_by_one(
    run: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    q_BHD: torch.Tensor,
    cache: PagedCache,
    masking: Masking,
    scale: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each sequence's positions put together, decoded, and attended to."""
    outs, lses = [torch.empty_like(q_BHD)[:0]], [q_BHD.new_empty(0, q_BHD.shape[1]).float()]
    for sequence, length in enumerate(cache.lengths_B.tolist()):
        pages = cache.table_BN[sequence, : -(-length // cache.keys_PSKD.shape[1])].long()
        keys = _gathered(cache.keys_PSKD, cache.k_scales_PSK, pages, length, q_BHD.dtype)
        values = _gathered(cache.values_PSKD, cache.v_scales_PSK, pages, length, q_BHD.dtype)
        q = q_BHD[sequence : sequence + 1]
        out, lse = run(q, keys, values, [1], [length], masking=masking, scale=scale)
        outs.append(out)
        lses.append(lse.T)
    return torch.cat(outs).detach(), torch.cat(lses).detach()


def _gathered(
    pool_PSKD: torch.Tensor,
    scales_PSK: torch.Tensor | None,
    pages: torch.Tensor,
    length: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Positions of one sequence, decoded, (length, K, D)."""
    found = pool_PSKD[pages].flatten(0, 1)[:length]
    if scales_PSK is None:
        return found.to(dtype)
    scales = scales_PSK[pages].flatten(0, 1)[:length]
    return (found.float() * scales[..., None]).to(torch.promote_types(dtype, torch.float32))


def paged_refusal(q_BHD: torch.Tensor, cache: PagedCache) -> str | None:
    """Why the kernel does not take this; None where it does."""
    if q_BHD.shape[2] > LARGEST_HEAD:
        return f"heads of size {q_BHD.shape[2]}; {LARGEST_HEAD} at most are taken"
    if cache.k_scales_PSK is None and cache.keys_PSKD.dtype != q_BHD.dtype:
        return dtype_refusal((q_BHD, cache.keys_PSKD), FLOATS)
    stored = dtype_refusal((cache.keys_PSKD, cache.values_PSKD), STORED)
    return dtype_refusal((q_BHD,), FLOATS) or stored


@torch.library.custom_op("llmtools::paged_attention", mutates_args=())
def _op(
    q_BHD: torch.Tensor,
    keys_PSKD: torch.Tensor,
    values_PSKD: torch.Tensor,
    table_BN: torch.Tensor,
    lengths_B: torch.Tensor,
    k_scales_PSK: torch.Tensor | None,
    v_scales_PSK: torch.Tensor | None,
    most_positions: int,
    scale: float,
    window: int | None,
    softcap: float | None,
    slopes_H: torch.Tensor | None,
    sinks_H: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    from llmtools.triton_kernels.paged_attention import paged_attention

    cache = PagedCache(
        keys_PSKD=keys_PSKD,
        values_PSKD=values_PSKD,
        table_BN=table_BN,
        lengths_B=lengths_B,
        k_scales_PSK=k_scales_PSK,
        v_scales_PSK=v_scales_PSK,
    )
    masking = Masking(window=window, softcap=softcap, slopes_H=slopes_H, sinks_H=sinks_H)
    return paged_attention(q_BHD, cache, most_positions, masking, scale)


@_op.register_fake
def _(q_BHD: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    out = q_BHD.new_empty(q_BHD.shape)
    return out, q_BHD.new_empty(q_BHD.shape[:2], dtype=torch.float32)
