"""What a checkpoint's model part is: a whole model, or an adapter of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from llmtools.adapters.inject import lora_tensors
from llmtools.adapters.lora import LoraConfig
from llmtools.adapters.peft_files import WEIGHTS as ADAPTER_WEIGHTS
from llmtools.adapters.peft_files import read_adapter, write_adapter
from llmtools.errors import InputError
from llmtools.formats.checkpoint import WEIGHTS, SafetensorsFile, read_json_object
from llmtools.model.decoder import Decoder
from llmtools.model.load import model_tensors, save_model
from llmtools.tokenizer.tokenizer import Tokenizer

GENERATION = "generation_config.json"


class ModelFiles(Protocol):
    """Writes the model into a directory that is being filled, and puts it back from one.

    metadata: kept inside the weight file.
    """

    def write(self, directory: Path, metadata: Mapping[str, str]) -> None: ...

    def restore(self, directory: Path) -> None: ...


def generation_settings(model: Path) -> dict[str, Any]:
    """generation_config.json of a model directory, {} where there is none."""
    file = model / GENERATION
    return read_json_object(file) if file.is_file() else {}


class WholeModel:
    """config.json, model.safetensors in fp32, and with a tokenizer its files and how to generate.

    generation: settings to keep; the ids that end an answer are the tokenizer's, since the chat
    template decides them.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer | None,
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        self._decoder, self._tokenizer = decoder, tokenizer
        self._generation = dict(generation or {})

    def write(self, directory: Path, metadata: Mapping[str, str]) -> None:
        save_model(directory, self._decoder, metadata=metadata)
        tokenizer = self._tokenizer
        if tokenizer is None:
            return
        tokenizer.save(directory)
        ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": sorted(tokenizer.stop_ids) or None}
        settings = self._generation | {
            key: value for key, value in ids.items() if value is not None
        }
        (directory / GENERATION).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")

    def restore(self, directory: Path) -> None:
        file = SafetensorsFile(directory / WEIGHTS)
        stored = {name: file.load(name) for name in file.tensors}
        _copy(model_tensors(self._decoder), stored, str(file.path))


class AdapterModel:
    """PEFT's two files, and the tokenizer's."""

    def __init__(
        self, decoder: Decoder, config: LoraConfig, base: Path, tokenizer: Tokenizer
    ) -> None:
        self._decoder, self._config, self._tokenizer = decoder, config, tokenizer
        self._base = base

    def write(self, directory: Path, metadata: Mapping[str, str]) -> None:
        tensors = lora_tensors(self._decoder)
        write_adapter(directory, tensors, self._config, str(self._base), metadata=metadata)
        self._tokenizer.save(directory)

    def restore(self, directory: Path) -> None:
        layers = read_adapter(directory).layers
        stored = {f"{layer}.lora_A.weight": a for layer, (a, _) in layers.items()}
        stored |= {f"{layer}.lora_B.weight": b for layer, (_, b) in layers.items()}
        _copy(lora_tensors(self._decoder), stored, str(directory / ADAPTER_WEIGHTS))


def _copy(into: Mapping[str, torch.Tensor], stored: Mapping[str, torch.Tensor], where: str) -> None:
    if into.keys() != stored.keys():
        odd = sorted(into.keys() ^ stored.keys())
        raise InputError(f"{where}: weights of another model ({odd[0]}, {len(odd)} names)")
    for name, tensor in into.items():
        if tensor.shape != stored[name].shape:
            raise InputError(f"{where}: {name} has shape {tuple(stored[name].shape)}")
        tensor.copy_(stored[name])
