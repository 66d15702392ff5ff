"""The gate of a SwiGLU feed-forward layer (Shazeer 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def swiglu_reference(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The definition in float64: gate * sigmoid(gate) * up."""
    wide = gate.double()
    return (wide * wide.sigmoid() * up.double()).to(gate.dtype)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, elementwise."""
    return F.silu(gate) * up
