"""Mixture of experts: which experts a token takes, and the products of experts with their tokens.

T  tokens     E  experts     X  experts of a token     S  rows sorted by expert, T * X
K  inputs     N  outputs

weights, experts = route(logits, X)
order, offsets = sort_by_expert(experts, E)
y = grouped_linear(x[order // X], weight, offsets)         row s is of token order[s] // X
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from llmtools.ops.path import FLOATS, choose, dtype_refusal
from llmtools.triton_kernels.limits import LARGEST_EXPERTS


def route(
    logits_TE: torch.Tensor, num_chosen: int, *, is_renormalized: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest experts of each token, of equal ones the first.

    returns: their probabilities in a softmax over all experts, or, renormalized, over the chosen,
    (T, X) fp32 with a gradient, and the experts, (T, X) int32; likeliest first.
    """
    way = choose("route", logits_TE, lambda: _route_refusal(logits_TE))
    if way == "triton":
        both: tuple[torch.Tensor, torch.Tensor] = _route_op(
            logits_TE.contiguous(), num_chosen, is_renormalized
        )
        return both
    wide = logits_TE.double() if way == "reference" else logits_TE.float()
    probabilities, experts = wide.softmax(-1).sort(dim=-1, descending=True, stable=True)
    weights = probabilities[:, :num_chosen]
    if is_renormalized:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights.float(), experts[:, :num_chosen].int()


def sort_by_expert(experts_TX: torch.Tensor, num_experts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """order (S,) int64: places in experts_TX, flat, by expert and then as they came; offsets
    (E + 1,) int32: where the rows of each expert begin, and the end."""
    flat = experts_TX.flatten().long()
    counts = torch.zeros(num_experts + 1, dtype=torch.int32, device=flat.device)
    counts.index_add_(0, flat + 1, torch.ones_like(flat, dtype=torch.int32))
    return flat.argsort(stable=True), counts.cumsum(0, dtype=torch.int32)


def grouped_linear_reference(
    x_SK: torch.Tensor, weight_ENK: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    """The definition in float64: each row times the weight of its expert."""
    rows = torch.arange(len(x_SK), device=x_SK.device)
    expert = torch.searchsorted(offsets[1:].contiguous(), rows, right=True)
    y = torch.einsum("sk,snk->sn", x_SK.double(), weight_ENK.double()[expert])
    return y.to(x_SK.dtype)


def grouped_linear(
    x_SK: torch.Tensor, weight_ENK: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    """Rows sorted by expert times their expert's weight, (S, N).

    offsets: int32 (E + 1,), rows of expert e are offsets[e] .. offsets[e + 1]; from 0 to S.
    """
    way = choose("grouped_linear", x_SK, lambda: _grouped_refusal(x_SK, weight_ENK))
    if way == "reference":
        return grouped_linear_reference(x_SK, weight_ENK, offsets)
    if way == "triton":
        out: torch.Tensor = _grouped_op(x_SK.contiguous(), weight_ENK, offsets)
        return out
    parts = x_SK.split(offsets.diff().tolist())
    return torch.cat([F.linear(x, w) for x, w in zip(parts, weight_ENK, strict=True)])


def _route_refusal(logits_TE: torch.Tensor) -> str | None:
    if logits_TE.shape[1] > LARGEST_EXPERTS:
        return f"{logits_TE.shape[1]} experts; {LARGEST_EXPERTS} at most are taken"
    return dtype_refusal((logits_TE,), FLOATS)


def _grouped_refusal(x_SK: torch.Tensor, weight_ENK: torch.Tensor) -> str | None:
    if len(weight_ENK) > LARGEST_EXPERTS:
        return f"{len(weight_ENK)} experts; {LARGEST_EXPERTS} at most are taken"
    return dtype_refusal((x_SK, weight_ENK), FLOATS)


@torch.library.custom_op("llmtools::route", mutates_args=())
def _route_op(
    logits_TE: torch.Tensor, num_chosen: int, is_renormalized: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    from llmtools.triton_kernels import moe

    return moe.route(logits_TE, num_chosen, is_renormalized=is_renormalized)


@_route_op.register_fake
def _(
    logits_TE: torch.Tensor, num_chosen: int, is_renormalized: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    weights = logits_TE.new_empty(len(logits_TE), num_chosen, dtype=torch.float32)
    return weights, torch.empty_like(weights, dtype=torch.int32)


def _keep_route(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[0], *output)
    ctx.is_renormalized = inputs[2]
    ctx.mark_non_differentiable(output[1])


def _route_backward(
    ctx: Any, grad_TX: torch.Tensor, _: torch.Tensor
) -> tuple[torch.Tensor, None, None]:
    """Of a softmax: E numbers a token are little beside its hidden state, so torch computes it."""
    logits, weights, experts = ctx.saved_tensors
    probabilities = logits.float().softmax(-1)
    places = experts.long()
    if ctx.is_renormalized:
        total = probabilities.gather(1, places).sum(-1, keepdim=True)
        grad_TX = (grad_TX - (grad_TX * weights).sum(-1, keepdim=True)) / total
    grad = torch.zeros_like(probabilities).scatter_(1, places, grad_TX)
    grad = probabilities * (grad - (grad * probabilities).sum(-1, keepdim=True))
    return grad.to(logits.dtype), None, None


_route_op.register_autograd(_route_backward, setup_context=_keep_route)


@torch.library.custom_op("llmtools::grouped_linear", mutates_args=())
def _grouped_op(
    x_SK: torch.Tensor, weight_ENK: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    from llmtools.triton_kernels.moe import grouped_matmul

    return grouped_matmul(x_SK, weight_ENK.transpose(1, 2), offsets)


@_grouped_op.register_fake
def _(x_SK: torch.Tensor, weight_ENK: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return x_SK.new_empty(len(x_SK), weight_ENK.shape[1])


@torch.library.custom_op("llmtools::grouped_linear_backward", mutates_args=())
def _grouped_backward_op(
    grad_SN: torch.Tensor, x_SK: torch.Tensor, weight_ENK: torch.Tensor, offsets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    from llmtools.triton_kernels.moe import grouped_matmul, grouped_weight_grad

    grad_x = grouped_matmul(grad_SN, weight_ENK, offsets)
    return grad_x, grouped_weight_grad(grad_SN, x_SK, offsets)


@_grouped_backward_op.register_fake
def _(
    grad_SN: torch.Tensor, x_SK: torch.Tensor, weight_ENK: torch.Tensor, offsets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return x_SK.new_empty(x_SK.shape), weight_ENK.new_empty(weight_ENK.shape)


def _keep_grouped(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _grouped_backward(ctx: Any, grad_SN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    grad_x, grad_weight = _grouped_backward_op(grad_SN.contiguous(), *ctx.saved_tensors)
    return grad_x, grad_weight, None


_grouped_op.register_autograd(_grouped_backward, setup_context=_keep_grouped)
