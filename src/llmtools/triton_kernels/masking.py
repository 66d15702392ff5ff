"""What attention is asked for beside its tensors; free of triton, which takes long to import."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """What a query sees and how its scores are bent.

    causal: nothing behind itself. window: at most so many keys, its own the last. softcap: scores
    become softcap * tanh(score / softcap). slopes_H: ALiBi, slope * (key place - query place) is
    added. sinks_H: a score of each head that takes weight and has no value.
    """

    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    slopes_H: torch.Tensor | None = None
    sinks_H: torch.Tensor | None = None
