"""Matrix products y = x W^T + b.

A few fp32 rows on a CPU (decoding a small batch) have a native path: the product is bound by
reading W, and a plain numba loop reads it at 25 GB/s where the BLAS behind torch reads 11 GB/s. All
products of a SmolLM2-135M token on one Zen 4 thread take 26 against 50 ms for 1 row, 24 against 76
for 2, 33 against 64 for 4. With more rows BLAS gains, and it alone uses several threads.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit

from llmtools.ops import path

MAX_NATIVE_ROWS = 4


@njit(cache=True, fastmath=True, nogil=True)
def _few_rows(w: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
    """out[m, i] = sum_j w[i, j] x[m, j]; fastmath lets the compiler sum in vector lanes.

    Every row is summed in the same order whatever the number of rows, so that a sequence's values
    do not depend on the others of a small batch.
    """
    num_outputs, columns = w.shape
    for i in range(num_outputs):
        for m in range(x.shape[0]):
            total = np.float32(0.0)
            for j in range(columns):
                total += w[i, j] * x[m, j]
            out[m, i] = total


def linear_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The definition in float64."""
    y = x.double() @ weight.double().T
    return (y if bias is None else y + bias.double()).to(x.dtype)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (..., in) times weight (out, in), plus bias (out,). On GPUs torch's own is the kernel."""
    if path.FORCED == "reference":
        return linear_reference(x, weight, bias)
    if (
        x.dtype == torch.float32
        and 0 < x.numel() <= MAX_NATIVE_ROWS * x.shape[-1]
        and not torch.is_grad_enabled()
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and weight.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
    ):
        out = torch.empty(*x.shape[:-1], weight.shape[0])
        rows = x.detach().reshape(-1, x.shape[-1]).contiguous()
        _few_rows(weight.detach().numpy(), rows.numpy(), out.view(len(rows), -1).numpy())
        return out if bias is None else out.add_(bias)
    return F.linear(x, weight, bias)
