"""Adapter directories in PEFT's layout: adapter_config.json and adapter_model.safetensors.

Keys are `base_model.model.` + the layer's name + `.lora_A.weight` (r, in) or `.lora_B.weight`
(out, r), as peft 0.21 writes and reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmtools.adapters.lora import LoraConfig
from llmtools.errors import InputError
from llmtools.formats.checkpoint import SafetensorsFile, read_json_object, save_tensors
from llmtools.formats.model_path import ADAPTER_CONFIG

if TYPE_CHECKING:
    import torch

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."

# Settings of PEFT that change what an adapter computes, and the values this version reads.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "trainable_token_indices": (None,),
    "alora_invocation_tokens": (None,),
    "lora_bias": (False, None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter as read: its config, the base it names, and (A, B) of each adapted layer."""

    config: LoraConfig
    base: str | None
    layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]]


def read_adapter(directory: Path) -> Adapter:
    """Read a LoRA adapter.

    raises: InputError naming the file for another kind of adapter, a setting that is not
    supported, a layer with half a pair, or shapes that do not fit the rank.
    """
    config, base = _read_config(directory / ADAPTER_CONFIG)
    path = directory / WEIGHTS
    file = SafetensorsFile(path)
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for key in sorted(file.tensors):
        layer, _, half = key.removesuffix(".weight").removeprefix(PREFIX).rpartition(".")
        if not key.startswith(PREFIX) or half not in ("lora_A", "lora_B") or not layer:
            raise InputError(f"{path}: tensor {key!r} belongs to no LoRA layer")
        halves.setdefault(layer, {})[half] = file.load(key)
    if not halves:
        raise InputError(f"{path}: no tensor in this adapter")
    for layer, pair in halves.items():
        if len(pair) != 2:
            raise InputError(f"{path}: {layer} has {next(iter(pair))} alone")
        a, b = pair["lora_A"], pair["lora_B"]
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != config.r or b.shape[1] != config.r:
            shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
            raise InputError(f"{path}: {layer}: shapes {shapes} do not fit r = {config.r}")
    layers = {layer: (pair["lora_A"], pair["lora_B"]) for layer, pair in halves.items()}
    return Adapter(config=config, base=base, layers=layers)


def _read_config(path: Path) -> tuple[LoraConfig, str | None]:
    values = read_json_object(path)
    mistakes = [
        f"{key} is {values[key]!r}; this version reads {allowed[0]!r}"
        for key, allowed in _PLAIN.items()
        if key in values and values[key] not in allowed
    ]
    r, alpha = values.get("r"), values.get("lora_alpha")
    dropout, targets = values.get("lora_dropout") or 0.0, values.get("target_modules") or []
    if not isinstance(r, int) or isinstance(r, bool) or r < 1:
        mistakes.append(f"r is {r!r}, not a positive integer")
    for key, number in (("lora_alpha", alpha), ("lora_dropout", dropout)):
        if not isinstance(number, int | float) or isinstance(number, bool):
            mistakes.append(f"{key} is {number!r}, not a number")
    # PEFT also takes one regular expression.
    names = [targets] if isinstance(targets, str) else targets
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        mistakes.append(f"target_modules is {targets!r}, not a list of names")
    base = values.get("base_model_name_or_path")
    if base is not None and not isinstance(base, str):
        mistakes.append(f"base_model_name_or_path is {base!r}, not a string")
    if mistakes:
        raise InputError(f"{path}: " + "; ".join(mistakes))
    config = LoraConfig(
        r=cast(int, r),
        alpha=float(cast(float, alpha)),
        dropout=float(dropout),
        target_modules=tuple(names),
        rank_scaled=bool(values.get("use_rslora")),
    )
    return config, base or None


def write_adapter(
    directory: Path,
    tensors: Mapping[str, torch.Tensor],
    config: LoraConfig,
    base: str,
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an adapter into a directory that is being filled.

    tensors: by our names (inject.lora_tensors). base: path of the model that it adapts.
    """
    alpha = int(config.alpha) if config.alpha == int(config.alpha) else config.alpha
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.r,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "target_modules": list(config.target_modules),
        "use_rslora": config.rank_scaled,
        "bias": "none",
        "inference_mode": True,
    }
    stored = {PREFIX + name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}
    save_tensors(directory / WEIGHTS, stored, metadata)
    text = json.dumps(values, indent=2, ensure_ascii=False)
    (directory / ADAPTER_CONFIG).write_text(text + "\n", "utf-8")
