"""Normalisation over the last dimension: RMSNorm, add + RMSNorm and LayerNorm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from llmtools.ops.path import FLOATS, choose, dtype_refusal
from llmtools.triton_kernels.limits import LARGEST_NORM, LARGEST_NORM_BACKWARD


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The definition in float64: x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019)."""
    wide = x.double()
    return (wide * (wide.pow(2).mean(-1, keepdim=True) + eps).rsqrt() * weight).to(x.dtype)


def layer_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:
    """The definition in float64, with z = x - mean(x): z / sqrt(mean(z^2) + eps) * weight + bias
    (Ba et al. 2016)."""
    wide = x.double()
    wide = wide - wide.mean(-1, keepdim=True)
    y = wide * (wide.pow(2).mean(-1, keepdim=True) + eps).rsqrt() * weight
    return (y if bias is None else y + bias).to(x.dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square normalisation scaled by `weight`; x (..., C), of heads too."""
    way = choose("rms_norm", x, lambda: _refusal(x, x, weight))
    if way == "triton":
        return _kernel(x, weight, None, None, eps, False)[0]
    if way == "reference":
        return rms_norm_reference(x, weight, eps)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        result: torch.Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return result
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of x + residual, and x + residual, which a kernel reads once for both."""
    way = choose("rms_norm", x, lambda: _refusal(x, residual, weight))
    if way == "triton":
        return _kernel(x, weight, None, residual, eps, False)
    z = x + residual
    if way == "reference":
        return rms_norm_reference(z, weight, eps), z
    return rms_norm(z, weight, eps), z


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:
    """Normalisation to mean 0 and variance 1, scaled by `weight` and moved by `bias`."""
    way = choose("layer_norm", x, lambda: _refusal(x, x, weight))
    if way == "triton":
        return _kernel(x, weight, bias, None, eps, True)[0]
    if way == "reference":
        return layer_norm_reference(x, weight, bias, eps)
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


class _RMSNorm(torch.autograd.Function):
    """With y = x r w and r = 1 / sqrt(mean(x^2) + eps), for a gradient g of y:

        dw = sum over tokens of g x r        dx = g w r - x r^3 mean(g w x)

    torch differentiates its rms_norm operation by operation; this takes 5 ms where that takes 20
    (forward and backward of 4096 x 384 in fp32 on one Zen 4 thread), and keeps x and r alone.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        r = mean_square.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        y: torch.Tensor = (wide * r).mul_(weight)
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, weight, r = ctx.saved_tensors
        size = x.shape[-1]
        g, wide, w = (t.to(r.dtype) for t in (grad, x, weight))
        # Autocast would round the two sums to bf16.
        with torch.autocast(x.device.type, enabled=False):
            gx = g * wide
            grad_weight = r.view(-1) @ gx.view(-1, size)
            mean_gwx = (gx @ w).unsqueeze(-1).div_(size)
            grad_x = (g * w).mul_(r).addcmul_(wide, mean_gwx.mul_(r**3), value=-1)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None


def _refusal(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> str | None:
    tensors = (x, residual, weight)
    has_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    largest = LARGEST_NORM_BACKWARD if has_gradient else LARGEST_NORM
    if x.shape[-1] > largest:
        return f"vectors of {x.shape[-1]}; {largest} at most are taken"
    if weight.dtype not in FLOATS:
        return dtype_refusal((weight,), FLOATS)
    return dtype_refusal((x, residual), FLOATS)


def _kernel(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    is_centred: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """y, and x + residual; x itself where there is none."""
    parts = [None if part is None else _vectors(part) for part in (x, residual)]
    out, sums, _, _ = _forward_op(parts[0], weight, bias, parts[1], eps, is_centred)
    return out.view(x.shape), x if residual is None else sums.view(x.shape)


def _vectors(x: torch.Tensor) -> torch.Tensor:
    """As (T, H, C): heads of a projection may lie apart, elements of a vector not."""
    if x.dim() != 3:
        x = x.reshape(-1, 1, x.shape[-1])
    return x if x.stride(2) == 1 else x.contiguous()


@torch.library.custom_op("llmtools::norm", mutates_args=())
def _forward_op(
    x_THC: torch.Tensor,
    weight_C: torch.Tensor,
    bias_C: torch.Tensor | None,
    residual_THC: torch.Tensor | None,
    eps: float,
    is_centred: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """y, x + residual, means and 1 / deviations; what there is none of is an empty tensor."""
    from llmtools.triton_kernels.norm import norm_forward

    found = norm_forward(x_THC, weight_C, bias_C, residual_THC, eps=eps, is_centred=is_centred)
    empty = x_THC.new_empty(0)
    sums = empty if residual_THC is None else found.sums
    return found.out, sums, x_THC.new_empty(0) if found.means is None else found.means, found.rstds


@_forward_op.register_fake
def _(
    x_THC: torch.Tensor,
    weight_C: torch.Tensor,
    bias_C: torch.Tensor | None,
    residual_THC: torch.Tensor | None,
    eps: float,
    is_centred: bool,
) -> tuple[torch.Tensor, ...]:
    out, empty = x_THC.new_empty(x_THC.shape), x_THC.new_empty(0)
    of_vectors = x_THC.new_empty(x_THC[..., 0].numel(), dtype=torch.float32)
    return (
        out,
        empty if residual_THC is None else torch.empty_like(out),
        torch.empty_like(of_vectors) if is_centred else torch.empty_like(empty),
        of_vectors,
    )


@torch.library.custom_op("llmtools::norm_backward", mutates_args=())
def _backward_op(
    grad_THC: torch.Tensor,
    grad_sums_THC: torch.Tensor | None,
    sums_THC: torch.Tensor,
    weight_C: torch.Tensor,
    means: torch.Tensor | None,
    rstds: torch.Tensor,
    has_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from llmtools.triton_kernels.norm import norm_backward

    grad_x, grad_weight, grad_bias = norm_backward(
        grad_THC, grad_sums_THC, sums_THC, weight_C, means, rstds, has_bias=has_bias
    )
    return grad_x, grad_weight, weight_C.new_empty(0) if grad_bias is None else grad_bias


@_backward_op.register_fake
def _(
    grad_THC: torch.Tensor,
    grad_sums_THC: torch.Tensor | None,
    sums_THC: torch.Tensor,
    weight_C: torch.Tensor,
    means: torch.Tensor | None,
    rstds: torch.Tensor,
    has_bias: bool,
) -> tuple[torch.Tensor, ...]:
    grad_bias = weight_C.new_empty(weight_C.shape if has_bias else 0)
    return sums_THC.new_empty(sums_THC.shape), torch.empty_like(weight_C), grad_bias


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, weight, bias, residual, _, ctx.is_centred = inputs
    _, sums, means, rstds = output
    ctx.is_added, ctx.has_bias = residual is not None, bias is not None
    ctx.save_for_backward(sums if ctx.is_added else x, weight, means, rstds)
    ctx.mark_non_differentiable(means, rstds)
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad: torch.Tensor | None, grad_sums: torch.Tensor | None, *_: Any
) -> tuple[torch.Tensor | None, ...]:
    sums, weight, means, rstds = ctx.saved_tensors
    if grad is None:
        grad = torch.zeros_like(sums)
    grad_x, grad_weight, grad_bias = _backward_op(
        grad, grad_sums if ctx.is_added else None, sums, weight,
        means if ctx.is_centred else None, rstds, ctx.has_bias,
    )  # fmt: skip
    residual = grad_x if ctx.is_added else None
    return grad_x, grad_weight, grad_bias if ctx.has_bias else None, residual, None, None


_forward_op.register_autograd(_backward, setup_context=_keep)
