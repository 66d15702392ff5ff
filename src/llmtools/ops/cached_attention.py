"""Attention of new tokens of one sequence behind its cache."""

from __future__ import annotations

from functools import lru_cache

import torch

from llmtools.ops.attention import CAUSAL, attention
from llmtools.ops.attention_kernel import attention_refusal
from llmtools.ops.paged_attention import paged_attention
from llmtools.ops.path import choose
from llmtools.triton_kernels.masking import Masking
from llmtools.triton_kernels.paged_cache import PagedCache

# Positions that a cache's memory is a multiple of, so that the kernel of paged caches can read it.
PAGE = 16


def cached_attention(
    q_THD: torch.Tensor,
    keys_KND: torch.Tensor,
    values_KND: torch.Tensor,
    *,
    masking: Masking = CAUSAL,
    scale: float | None = None,
) -> torch.Tensor:
    """The last T of N positions of one sequence attend to all N.

    q_THD: the new queries. keys_KND, values_KND: every position so far, the new ones included.
    returns: (T, H, D).
    """
    T, N = len(q_THD), keys_KND.shape[1]
    k_NKD, v_NKD = keys_KND.transpose(0, 1), values_KND.transpose(0, 1)
    if T == 1 and not torch.is_grad_enabled():
        way = choose("attention", q_THD, lambda: attention_refusal(q_THD, k_NKD, v_NKD))
        cache = _as_pages(keys_KND, values_KND) if way == "triton" else None
        if cache is not None:
            return paged_attention(q_THD, cache, N, masking=masking, scale=scale)[0]
    return attention(q_THD, k_NKD, v_NKD, [T], [N], masking=masking, scale=scale)


def _as_pages(keys_KND: torch.Tensor, values_KND: torch.Tensor) -> PagedCache | None:
    """One sequence's positions as pages in order; None where the last would end past memory."""
    pools = [_pool(keys_KND), _pool(values_KND)]
    if pools[0] is None or pools[1] is None:
        return None
    table, lengths = _places(keys_KND.shape[1], keys_KND.device)
    return PagedCache(keys_PSKD=pools[0], values_PSKD=pools[1], table_BN=table, lengths_B=lengths)


def _pool(x_KND: torch.Tensor) -> torch.Tensor | None:
    K, N, D = x_KND.shape
    head, position, element = x_KND.stride()
    pages = -(-N // PAGE)
    end = x_KND.storage_offset() + (K - 1) * head + (pages * PAGE - 1) * position + D
    if element != 1 or end * x_KND.element_size() > x_KND.untyped_storage().nbytes():
        return None
    return x_KND.as_strided((pages, PAGE, K, D), (PAGE * position, position, head, 1))


@lru_cache(maxsize=64)
def _places(num_positions: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The table and length of one sequence; all layers of a step ask for the same."""
    table = torch.arange(-(-num_positions // PAGE), dtype=torch.int32, device=device)[None]
    return table, torch.tensor([num_positions], dtype=torch.int32, device=device)
