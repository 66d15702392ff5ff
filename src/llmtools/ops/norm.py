"""Normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The definition in float64: x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019)."""
    wide = x.double()
    return (wide * (wide.pow(2).mean(-1, keepdim=True) + eps).rsqrt() * weight).to(x.dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square normalisation over the last dimension, scaled by `weight`."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)
