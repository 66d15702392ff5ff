"""Matrix products y = x W^T + b.

One fp32 row on a CPU (decoding one sequence) has a native path: the product is bound by reading W,
and a plain numba loop reads it at 25 GB/s where the BLAS behind torch reads 11 GB/s (one Zen 4
thread, 576 x 3072: 268 against 632 us).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit


@njit(cache=True, fastmath=True, nogil=True)
def _matvec(w: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
    """out[i] = sum_j w[i, j] x[j]; fastmath lets the compiler sum in vector lanes."""
    rows, columns = w.shape
    for i in range(rows):
        total = np.float32(0.0)
        for j in range(columns):
            total += w[i, j] * x[j]
        out[i] = total


def linear_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The definition in float64."""
    y = x.double() @ weight.double().T
    return (y if bias is None else y + bias.double()).to(x.dtype)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (..., in) times weight (out, in), plus bias (out,)."""
    if (
        x.dtype == torch.float32
        and x.numel() == x.shape[-1]
        and not torch.is_grad_enabled()
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and weight.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
    ):
        out = torch.empty(*x.shape[:-1], weight.shape[0])
        _matvec(weight.detach().numpy(), x.reshape(-1).numpy(), out.view(-1).numpy())
        return out if bias is None else out.add_(bias)
    return F.linear(x, weight, bias)
