"""Products of 8-bit rows with 8-bit weights: y = (x_codes W^T) x_scale w_scale + b.

Each row of x is quantized on the way, to the dtype of the weight, by its own scale; the weight has
a scale for each output.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from llmtools.ops.path import FLOATS, choose, dtype_refusal
from llmtools.triton_kernels.limits import LARGEST_CODE, LARGEST_ROW


def quantize_rows(x_MK: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (M, K) of `dtype`, int8 or float8_e4m3fn, and scales (M,) fp32."""
    wide = x_MK.float()
    scales = (
        wide.abs().amax(1) / LARGEST_CODE[dtype] if x_MK.shape[1] else wide.new_zeros(len(x_MK))
    )
    codes = wide / scales.where(scales > 0, 1.0)[:, None]
    return (codes.round() if dtype == torch.int8 else codes).to(dtype), scales


def scaled_linear_reference(
    x: torch.Tensor,
    weight_NK: torch.Tensor,
    scales_N: torch.Tensor,
    bias_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """The definition in float64, given the rows' codes."""
    codes, scales = quantize_rows(x.reshape(-1, x.shape[-1]), weight_NK.dtype)
    y = codes.double() @ weight_NK.double().T * scales.double()[:, None] * scales_N.double()
    y = y if bias_N is None else y + bias_N.double()
    return y.to(x.dtype).view(*x.shape[:-1], len(weight_NK))


def scaled_linear(
    x: torch.Tensor,
    weight_NK: torch.Tensor,
    scales_N: torch.Tensor,
    bias_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """x (..., K) times a weight of int8 or float8_e4m3fn, in the dtype of x; no gradient."""
    way = choose("scaled_linear", x, lambda: scaled_refusal(x, weight_NK))
    if way == "reference":
        return scaled_linear_reference(x, weight_NK, scales_N, bias_N)
    rows = x.detach().reshape(-1, x.shape[-1])
    if way == "triton":
        out: torch.Tensor = _op(rows.contiguous(), weight_NK.contiguous(), scales_N, bias_N)
        return out.view(*x.shape[:-1], len(weight_NK))
    codes, scales = quantize_rows(rows, weight_NK.dtype)
    y = F.linear(codes.float(), weight_NK.float()) * scales[:, None] * scales_N.float()
    y = y if bias_N is None else y + bias_N.float()
    return y.to(x.dtype).view(*x.shape[:-1], len(weight_NK))


def scaled_refusal(x: torch.Tensor, weight_NK: torch.Tensor) -> str | None:
    """Why the kernel does not take this; None where it does."""
    if x.shape[-1] > LARGEST_ROW:
        return f"rows of {x.shape[-1]}; {LARGEST_ROW} at most are taken"
    if weight_NK.dtype == torch.float8_e4m3fn and x.is_cuda:
        major, minor = torch.cuda.get_device_capability(x.device)
        if torch.version.hip is None and (major, minor) < (8, 9):
            return f"fp8 weights on compute capability {major}.{minor}; 8.9 and later multiply them"
    return dtype_refusal((weight_NK,), tuple(LARGEST_CODE)) or dtype_refusal((x,), FLOATS)


@torch.library.custom_op("llmtools::scaled_linear", mutates_args=())
def _op(
    x_MK: torch.Tensor,
    weight_NK: torch.Tensor,
    scales_N: torch.Tensor,
    bias_N: torch.Tensor | None,
) -> torch.Tensor:
    from llmtools.triton_kernels.scaled_matmul import quantize_rows, scaled_matmul

    codes, scales = quantize_rows(x_MK, weight_NK.dtype)
    return scaled_matmul(codes, scales, weight_NK, scales_N, bias_N, dtype=x_MK.dtype)


@_op.register_fake
def _(x_MK: torch.Tensor, weight_NK: torch.Tensor, *rest: Any) -> torch.Tensor:
    return x_MK.new_empty(len(x_MK), len(weight_NK))
