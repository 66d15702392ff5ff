"""Keys and values of the positions that sequences have been through, and the context to use them.

Legend: L layers, K key heads, D head size, N positions of one sequence, T new tokens of a step.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from llmtools import ops
from llmtools.model import ModelConfig

# The share of memory that sequences may fill, where no number of positions is set.
MEMORY_SHARE = 0.5


class SequenceCache:
    """The cache of one sequence, allocated for all positions it may ever have.

    Pages of memory that are never written cost nothing on a CPU, so nothing has to grow. One
    [K, capacity, D] block a layer keeps each head's positions next to each other, which is how
    attention reads them.
    """

    def __init__(
        self, config: ModelConfig, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        positions = -(-capacity // ops.PAGE) * ops.PAGE
        shape = (config.num_key_value_heads, positions, config.head_dim)
        layers = range(config.num_hidden_layers)
        self._keys = [torch.empty(shape, device=device, dtype=dtype) for _ in layers]
        self._values = [torch.empty(shape, device=device, dtype=dtype) for _ in layers]
        self.capacity = capacity
        self.length = 0

    def write(
        self, layer: int, k_TKD: torch.Tensor, v_TKD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put new positions behind the known ones; returns all as (K, N, D), not copied.

        `length` moves only when every layer has been written (CachedContext.commit).
        """
        start, stop = self.length, self.length + k_TKD.shape[0]
        keys, values = self._keys[layer], self._values[layer]
        keys[:, start:stop] = k_TKD.transpose(0, 1)
        values[:, start:stop] = v_TKD.transpose(0, 1)
        return keys[:, :stop], values[:, :stop]


class CachedContext:
    """The attention context of one step: the new tokens of some sequences, one after another."""

    def __init__(self, parts: Sequence[tuple[SequenceCache, int]], device: torch.device) -> None:
        """parts: the sequences and how many new tokens each has, all at least 1."""
        self._parts = parts
        self._positions_T = torch.cat(
            [torch.arange(cache.length, cache.length + count) for cache, count in parts]
        ).to(device)

    @property
    def positions_T(self) -> torch.Tensor:
        return self._positions_T

    def attend(
        self, layer: int, q_THD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor
    ) -> torch.Tensor:
        if len(self._parts) == 1:
            return ops.cached_attention(q_THD, *self._parts[0][0].write(layer, k_TKD, v_TKD))
        outs = []
        start = 0
        for cache, count in self._parts:
            stop = start + count
            keys, values = cache.write(layer, k_TKD[start:stop], v_TKD[start:stop])
            outs.append(ops.cached_attention(q_THD[start:stop], keys, values))
            start = stop
        return torch.cat(outs)

    def commit(self) -> None:
        """Count the new positions as known, after a whole forward pass."""
        for cache, count in self._parts:
            cache.length += count


def default_positions(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> int:
    """How many positions of all sequences together fit in half of the machine's memory."""
    if device.type == "cuda":
        available = torch.cuda.mem_get_info(device)[0]
    else:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, int(MEMORY_SHARE * available) // position_bytes(config, dtype))


def position_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes that one position takes in all layers."""
    per_layer = 2 * config.num_key_value_heads * config.head_dim * dtype.itemsize
    return config.num_hidden_layers * per_layer
