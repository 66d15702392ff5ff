"""The gate of a feed-forward layer: act(gate) * up, SwiGLU and GeGLU (Shazeer 2020)."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F

from llmtools.ops.path import FLOATS, choose, dtype_refusal

Activation = Literal["silu", "gelu_tanh", "gelu"]


def gated_reference(gate: torch.Tensor, up: torch.Tensor, activation: Activation) -> torch.Tensor:
    """The definition in float64."""
    x = gate.double()
    if activation == "silu":
        share = x.sigmoid()
    elif activation == "gelu_tanh":
        share = (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2
    else:
        share = (1 + torch.erf(x / 2**0.5)) / 2
    return (x * share * up.double()).to(gate.dtype)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, elementwise."""
    return gated(gate, up, "silu")


def geglu(gate: torch.Tensor, up: torch.Tensor, *, approximate: bool = True) -> torch.Tensor:
    """gelu(gate) * up, elementwise; approximate: by tanh, as Gemma has it."""
    return gated(gate, up, "gelu_tanh" if approximate else "gelu")


def gated(gate: torch.Tensor, up: torch.Tensor, activation: Activation) -> torch.Tensor:
    """act(gate) * up of tensors of one shape, in the dtype of gate."""
    way = choose("the gate", gate, lambda: dtype_refusal((gate, up), FLOATS))
    if way == "reference":
        return gated_reference(gate, up, activation)
    if way == "triton":
        size = gate.shape[-1]
        rows = [x.reshape(-1, size) for x in (gate, up)]
        rows = [x if x.stride(1) == 1 else x.contiguous() for x in rows]
        out: torch.Tensor = _forward_op(rows[0], rows[1], activation)
        return out.view(gate.shape)
    if activation == "silu":
        return F.silu(gate) * up
    return F.gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none") * up


@torch.library.custom_op("llmtools::gated", mutates_args=())
def _forward_op(gate_RF: torch.Tensor, up_RF: torch.Tensor, activation: str) -> torch.Tensor:
    from llmtools.triton_kernels.gated import gated_forward

    return gated_forward(gate_RF, up_RF, activation=cast(Activation, activation))


@_forward_op.register_fake
def _(gate_RF: torch.Tensor, up_RF: torch.Tensor, activation: str) -> torch.Tensor:
    return gate_RF.new_empty(gate_RF.shape)


@torch.library.custom_op("llmtools::gated_backward", mutates_args=())
def _backward_op(
    grad_RF: torch.Tensor, gate_RF: torch.Tensor, up_RF: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    from llmtools.triton_kernels.gated import gated_backward

    return gated_backward(grad_RF, gate_RF, up_RF, activation=cast(Activation, activation))


@_backward_op.register_fake
def _(
    grad_RF: torch.Tensor, gate_RF: torch.Tensor, up_RF: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    return gate_RF.new_empty(gate_RF.shape), up_RF.new_empty(up_RF.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    gate, up, ctx.activation = inputs
    ctx.save_for_backward(gate, up)


def _backward(ctx: Any, grad_RF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    gate, up = _backward_op(grad_RF, *ctx.saved_tensors, ctx.activation)
    return gate, up, None


_forward_op.register_autograd(_backward, setup_context=_keep)
