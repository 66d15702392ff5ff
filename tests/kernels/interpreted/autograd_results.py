"""Outputs of an operation and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def gradients(function: Callable[..., Any], *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of function(*inputs) and the gradients of a fixed weighted sum of them."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    outs = out if isinstance(out, tuple) else (out,)
    total = torch.zeros((), dtype=torch.float64)
    for one in outs:
        # Not even: sums of a bias' gradient that cancel would be all rounding.
        weights = torch.linspace(-0.5, 1, one.numel(), dtype=torch.float64).view(one.shape)
        total = total + (one.double() * weights).sum()
    total.backward()
    found = [*(x.detach() for x in outs), *(x.grad for x in leaves)]
    assert all(x is not None for x in found)
    return found
