"""Adapters into a decoder: which layers get one, and back out."""

from __future__ import annotations

from dataclasses import replace

import torch

from llmtools.adapters.lora import LoraConfig, LoraLinear
from llmtools.errors import UsageError, did_you_mean
from llmtools.model.decoder import Decoder
from llmtools.model.layers import Linear

ALL_LINEAR = "all-linear"


def adaptable_layers(decoder: Decoder) -> dict[str, Linear]:
    """The linear layers of the blocks by full name; never the output head, as in PEFT."""
    return {
        f"model.{name}": module
        for name, module in decoder.model.named_modules()
        if isinstance(module, Linear)
    }


def target_modules(decoder: Decoder, target: str) -> tuple[str, ...]:
    """'all-linear' or 'q_proj,v_proj' to names of layers; UsageError for an unknown name."""
    known = sorted({name.rpartition(".")[2] for name in adaptable_layers(decoder)})
    if target == ALL_LINEAR:
        return tuple(known)
    names = [name.strip() for name in target.split(",") if name.strip()]
    mistakes = [f"{name!r}{did_you_mean(name, known)}" for name in names if name not in known]
    if mistakes or not names:
        raise UsageError(
            f"--lora-target {target!r}: no layer {', '.join(mistakes) or 'named'};"
            f" use {ALL_LINEAR} or some of {', '.join(known)}"
        )
    return tuple(dict.fromkeys(names))


def inject_lora(decoder: Decoder, config: LoraConfig, *, seed: int = 0) -> LoraConfig:
    """Freeze the decoder and put a LoraLinear in place of each target; returns the full config."""
    if not config.target_modules:
        config = replace(config, target_modules=target_modules(decoder, ALL_LINEAR))
    decoder.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, layer in adaptable_layers(decoder).items():
        parent_name, _, own_name = name.rpartition(".")
        if own_name in config.target_modules:
            adapted = LoraLinear(layer, config)
            adapted.initialize(generator)
            setattr(decoder.get_submodule(parent_name), own_name, adapted)
    return config


def lora_tensors(decoder: Decoder) -> dict[str, torch.Tensor]:
    """The adapter's weights by name (`model.layers.0.self_attn.q_proj.lora_A.weight`), detached."""
    return {
        name: parameter.detach()
        for name, parameter in decoder.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }
