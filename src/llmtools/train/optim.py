"""The optimizer: AdamW (Loshchilov and Hutter 2019) with decay on matrices alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from llmtools.errors import InputError
from llmtools.train.settings import TrainSettings


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over the trainable parameters.

    Weights with two dimensions decay, embeddings and adapters included; norms and biases do not
    (as in nanoGPT).
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_eps,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Parameter names in the optimizer's own numbering."""
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    return [by_id[id(p)] for group in optimizer.param_groups for p in group["params"]]


def optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """The optimizer's state as `exp_avg.NAME`, `exp_avg_sq.NAME` and `step.NAME`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{kind}.{name}": value
        for at, name in enumerate(_names(model, optimizer))
        for kind, value in state.get(at, {}).items()
    }


def load_optimizer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, torch.Tensor],
    where: str,
) -> None:
    """Put back what optimizer_tensors gave; InputError where it does not fit this model."""
    kinds = ("step", "exp_avg", "exp_avg_sq")
    names = _names(model, optimizer)
    expected = {f"{kind}.{name}" for kind in kinds for name in names}
    if expected != tensors.keys():
        odd = sorted(expected ^ tensors.keys())
        raise InputError(f"{where}: optimizer state of another model ({odd[0]}, {len(odd)} names)")
    state = {
        at: {kind: tensors[f"{kind}.{name}"].clone() for kind in kinds}
        for at, name in enumerate(names)
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
