"""How far results are from those that they should be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def error(
    found: torch.Tensor | Sequence[torch.Tensor], want: torch.Tensor | Sequence[torch.Tensor]
) -> float:
    """Largest difference over the largest value, at least 1, of each pair; the worst of them.

    What is not a number is infinitely far: max() of Python would pass over it.
    """
    if isinstance(found, torch.Tensor) or isinstance(want, torch.Tensor):
        assert isinstance(found, torch.Tensor) and isinstance(want, torch.Tensor)
        found, want = [found], [want]
    worst = 0.0
    for one, other in zip(found, want, strict=True):
        assert one.shape == other.shape, (one.shape, other.shape)
        a, b = one.double(), other.double()
        difference = ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()
        worst = math.inf if math.isnan(difference) else max(worst, difference)
    return worst
