"""The attention context of packed training rows: documents one after another, no cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llmtools import ops


class PackedRows:
    """Consecutive documents in one flat token dimension; positions start at 0 in each."""

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu") -> None:
        """lengths: tokens of each document in order, all at least 1."""
        self.lengths = list(lengths)
        self._positions_T = torch.cat([torch.arange(n) for n in self.lengths]).to(device)

    @property
    def positions_T(self) -> torch.Tensor:
        return self._positions_T

    def attend(
        self, layer: int, q_THD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor
    ) -> torch.Tensor:
        return ops.attention(q_THD, k_TKD, v_TKD, self.lengths)
