"""Causal depthwise convolution over the tokens of consecutive documents (Mamba's conv1d).

T tokens, C channels, W taps: z[t] = bias + sum over j of weight[:, j] x[t - (W - 1) + j], with x
before a document's first token 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from llmtools.ops.path import FLOATS, choose, dtype_refusal


def causal_conv_reference(
    x_TC: torch.Tensor,
    weight_CW: torch.Tensor,
    bias_C: torch.Tensor | None,
    lengths: Sequence[int],
    *,
    is_activated: bool = True,
) -> torch.Tensor:
    """The definition in float64, see causal_conv."""
    W = weight_CW.shape[1]
    outs = []
    for x in x_TC.double().split(list(lengths)):
        padded = torch.cat([x.new_zeros(W - 1, x.shape[1]), x])
        z = sum(padded[j : j + len(x)] * weight_CW[:, j].double() for j in range(W))
        assert isinstance(z, torch.Tensor)
        z = z if bias_C is None else z + bias_C.double()
        outs.append(z * z.sigmoid() if is_activated else z)
    return torch.cat(outs).to(x_TC.dtype)


def causal_conv(
    x_TC: torch.Tensor,
    weight_CW: torch.Tensor,
    bias_C: torch.Tensor | None,
    lengths: Sequence[int],
    *,
    is_activated: bool = True,
) -> torch.Tensor:
    """z, or silu(z) where it is activated, (T, C); no document sees another.

    lengths: tokens of each document in order, sum T.
    """
    tensors = (x_TC, weight_CW) if bias_C is None else (x_TC, weight_CW, bias_C)
    way = choose("causal_conv", x_TC, lambda: dtype_refusal(tensors, FLOATS))
    if way == "reference":
        return causal_conv_reference(x_TC, weight_CW, bias_C, lengths, is_activated=is_activated)
    if way == "triton":
        x = x_TC if x_TC.stride(1) == 1 else x_TC.contiguous()
        out: torch.Tensor = _op(x, weight_CW.contiguous(), bias_C, list(lengths), is_activated)
        return out
    C, W = weight_CW.shape
    outs = [x_TC[:0]]
    for x in x_TC.split(list(lengths)):
        padded = F.pad(x.T, (W - 1, 0))[None]
        outs.append(F.conv1d(padded, weight_CW[:, None], bias_C, groups=C)[0].T)
    z = torch.cat(outs)
    return F.silu(z) if is_activated else z


def first_tokens(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    """The first token of each token's document."""
    sizes = torch.tensor(list(lengths), dtype=torch.int64)
    starts = sizes.cumsum(0) - sizes
    return starts.int().repeat_interleave(sizes).to(device)


@torch.library.custom_op("llmtools::causal_conv", mutates_args=())
def _op(
    x_TC: torch.Tensor,
    weight_CW: torch.Tensor,
    bias_C: torch.Tensor | None,
    lengths: Sequence[int],
    is_activated: bool,
) -> torch.Tensor:
    from llmtools.triton_kernels.conv import conv_forward

    firsts = first_tokens(lengths, x_TC.device)
    return conv_forward(x_TC, weight_CW, bias_C, firsts, is_activated=is_activated)


@_op.register_fake
def _(x_TC: torch.Tensor, *rest: Any) -> torch.Tensor:
    return x_TC.new_empty(x_TC.shape)


@torch.library.custom_op("llmtools::causal_conv_backward", mutates_args=())
def _backward_op(
    grad_TC: torch.Tensor,
    x_TC: torch.Tensor,
    weight_CW: torch.Tensor,
    bias_C: torch.Tensor | None,
    lengths: Sequence[int],
    is_activated: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x, weight and bias; of no bias, an empty tensor."""
    from llmtools.triton_kernels.conv import conv_backward

    firsts = first_tokens(lengths, x_TC.device)
    grad_x, grad_weight, grad_bias = conv_backward(
        grad_TC, x_TC, weight_CW, bias_C, firsts, is_activated=is_activated
    )
    return grad_x, grad_weight, x_TC.new_empty(0) if grad_bias is None else grad_bias


@_backward_op.register_fake
def _(
    grad_TC: torch.Tensor,
    x_TC: torch.Tensor,
    weight_CW: torch.Tensor,
    bias_C: torch.Tensor | None,
    lengths: Sequence[int],
    is_activated: bool,
) -> tuple[torch.Tensor, ...]:
    grad_bias = x_TC.new_empty(0) if bias_C is None else torch.empty_like(bias_C)
    return x_TC.new_empty(x_TC.shape), torch.empty_like(weight_CW), grad_bias


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, bias, ctx.lengths, ctx.is_activated = inputs
    ctx.save_for_backward(x, weight, bias)


def _backward(ctx: Any, grad_TC: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    grad_x, grad_weight, grad_bias = _backward_op(
        grad_TC.contiguous(), x, weight, bias, ctx.lengths, ctx.is_activated
    )
    return grad_x, grad_weight, None if bias is None else grad_bias, None, None


_op.register_autograd(_backward, setup_context=_keep)
