"""Products with weights that stay quantized: y = x W + b, W decoded on the way."""

from __future__ import annotations

from typing import Any

import torch

from llmtools.ops.packed_weight import PackedWeight, unpack_weight
from llmtools.ops.path import choose, dtype_refusal


def quant_linear_reference(
    x: torch.Tensor, weight: PackedWeight, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The definition in float64."""
    x = x if weight.order_K is None else x[..., weight.order_K]
    y = x.double() @ _unpacked(weight, torch.float64)
    return (y if bias is None else y + bias.double()).to(x.dtype)


def _unpacked(weight: PackedWeight, dtype: torch.dtype) -> torch.Tensor:
    return unpack_weight(
        weight.codes,
        weight.scales_GN,
        weight.zeros_GN,
        weight.table,
        bits=weight.bits,
        group_size=weight.group_size,
        num_inputs=weight.num_inputs,
        dtype=dtype,
    )


def quant_refusal(x: torch.Tensor) -> str | None:
    """Why the kernel does not take these activations; None where it does."""
    return dtype_refusal((x,), (torch.float16, torch.bfloat16))


def _multiplied(
    x_MK: torch.Tensor, weight_KN: torch.Tensor, bias_N: torch.Tensor | None
) -> torch.Tensor:
    return x_MK @ weight_KN if bias_N is None else torch.addmm(bias_N, x_MK, weight_KN)


@torch.library.custom_op("llmtools::quant_linear", mutates_args=())
def _product(
    x_MK: torch.Tensor,
    codes: torch.Tensor,
    scales_GN: torch.Tensor,
    zeros_GN: torch.Tensor | None,
    table: torch.Tensor | None,
    bias_N: torch.Tensor | None,
    bits: int,
    group_size: int,
    is_kernel: bool,
) -> torch.Tensor:
    if is_kernel:
        from llmtools.triton_kernels.quant_matmul import quant_matmul

        return quant_matmul(
            x_MK, codes, scales_GN, zeros_GN, table, bias_N, bits=bits, group_size=group_size
        )
    weight = unpack_weight(
        codes, scales_GN, zeros_GN, table,
        bits=bits, group_size=group_size, num_inputs=x_MK.shape[1], dtype=x_MK.dtype,
    )  # fmt: skip
    return _multiplied(x_MK, weight, bias_N)


@_product.register_fake
def _(x_MK: torch.Tensor, codes: torch.Tensor, *rest: Any) -> torch.Tensor:
    return x_MK.new_empty(x_MK.shape[0], codes.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, codes, scales, zeros, table, bias, bits, group_size, _ = inputs
    ctx.save_for_backward(codes, scales, zeros, table)
    ctx.sizes = bits, group_size, x.shape[1], None if bias is None else bias.dtype


def _backward(ctx: Any, grad_MN: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Of x and the bias; the weight is frozen. Unpacked whole: a matrix at a time is little beside
    the activations of a step, and the product then runs at the speed of a plain one."""
    codes, scales, zeros, table = ctx.saved_tensors
    bits, group_size, num_inputs, bias_dtype = ctx.sizes
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        weight = unpack_weight(
            codes, scales, zeros, table,
            bits=bits, group_size=group_size, num_inputs=num_inputs, dtype=grad_MN.dtype,
        )  # fmt: skip
        grad_x = grad_MN @ weight.T
    if bias_dtype is not None and ctx.needs_input_grad[5]:
        grad_bias = grad_MN.sum(0, dtype=torch.float32).to(bias_dtype)
    return grad_x, None, None, None, None, grad_bias, None, None, None


_product.register_autograd(_backward, setup_context=_keep)


def quant_linear(
    x: torch.Tensor, weight: PackedWeight, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x (..., K) times a packed weight, plus bias (N,), in the dtype of x."""
    way = choose("quant_linear", x, lambda: quant_refusal(x))
    if way == "reference":
        return quant_linear_reference(x, weight, bias)
    x = x if weight.order_K is None else x.index_select(-1, weight.order_K)
    rows = x.reshape(-1, weight.num_inputs)
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    if way == "native" and not torch.is_grad_enabled():
        # Past the op, whose first call imports torch's compiler: a second, and 160 MB.
        product = _multiplied(rows, _unpacked(weight, x.dtype), bias)
        return product.view(*x.shape[:-1], weight.num_outputs)
    out: torch.Tensor = _product(
        rows,
        weight.codes,
        weight.scales_GN,
        weight.zeros_GN,
        weight.table,
        bias,
        weight.bits,
        weight.group_size,
        way == "triton",
    )
    return out.view(*x.shape[:-1], weight.num_outputs)
