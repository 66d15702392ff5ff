"""A key/value cache in pages; free of triton, which takes long to import."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedCache:
    """keys_PSKD, values_PSKD: the pool, heads contiguous; fp16, bf16, fp32, fp8 or int8.
    table_BN: int32, pages of each sequence in order. lengths_B: int32, its own position included.
    k_scales_PSK, v_scales_PSK: fp32, of one layout; None where elements are what they are."""

    keys_PSKD: torch.Tensor
    values_PSKD: torch.Tensor
    table_BN: torch.Tensor
    lengths_B: torch.Tensor
    k_scales_PSK: torch.Tensor | None = None
    v_scales_PSK: torch.Tensor | None = None
