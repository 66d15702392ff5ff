"""Any MODEL argument to a decoder that is ready to run: adapters are merged into their base."""

from __future__ import annotations

from pathlib import Path

import torch
import xxhash

from llmtools.adapters.lora import merged_weight
from llmtools.adapters.peft_files import WEIGHTS, Adapter, read_adapter
from llmtools.errors import InputError
from llmtools.formats.checkpoint import CONFIG, read_json_object
from llmtools.formats.manifest import FILE_NAME as MANIFEST
from llmtools.formats.manifest import Recorder
from llmtools.formats.model_path import ADAPTER_CONFIG, resolve_model
from llmtools.model.config import ModelConfig
from llmtools.model.decoder import Decoder
from llmtools.model.load import load_model, read_shape

TOKENIZER = "tokenizer.json"
MODEL_SUFFIXES = (".safetensors", ".json", ".gguf", ".jinja")


def load_any(
    path: Path,
    *,
    base: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """A model directory, RUN directory, GGUF file or adapter directory, in evaluation mode.

    base: the model an adapter belongs to, where its config does not say or says wrongly.
    raises: InputError naming the file for anything missing, malformed or of the wrong shape.
    """
    model = resolve_model(path)
    if not is_adapter(model):
        if base is not None:
            raise InputError(f"{model} is not an adapter, so it has no base ({base})")
        return load_model(model, device=device, dtype=dtype)
    adapter = read_adapter(model)
    base_model = base_of(model, base)
    decoder = load_model(base_model, device=device, dtype=dtype)
    merge(decoder, adapter, str(model / WEIGHTS))
    return decoder


def shape_of(path: Path, *, base: Path | None = None) -> tuple[ModelConfig, int]:
    """The config of any MODEL and the bytes its weights take in files, from headers.

    An adapter has its base's config, and both files' bytes. raises: like load_any, but for values.
    """
    model = resolve_model(path)
    if not is_adapter(model):
        if base is not None:
            raise InputError(f"{model} is not an adapter, so it has no base ({base})")
        return read_shape(model)
    read_adapter(model)
    config, num_bytes = read_shape(base_of(model, base))
    return config, num_bytes + (model / WEIGHTS).stat().st_size


def is_adapter(model: Path) -> bool:
    """Whether a resolved model is an adapter directory."""
    return (model / ADAPTER_CONFIG).is_file() and not (model / CONFIG).is_file()


def base_of(adapter: Path, base: Path | None = None) -> Path:
    """The resolved base model of an adapter directory.

    Looked for: `base`, the path in adapter_config.json, and the end of that path beside the
    adapter (both may have moved together). raises: InputError listing what was tried.
    """
    if base is not None:
        found = resolve_model(base)
        if is_adapter(found):
            raise InputError(f"{base}: the base of an adapter cannot be an adapter")
        return found
    named = read_json_object(adapter / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise InputError(f"{adapter / ADAPTER_CONFIG} names no base model; give it with --base")
    parts = Path(named).parts
    beside = adapter.absolute().parent
    candidates = [Path(named), beside / parts[-1], beside.joinpath(*parts[-2:])]
    for candidate in candidates:
        if candidate.exists():
            return base_of(adapter, candidate)
    raise InputError(
        f"{adapter / ADAPTER_CONFIG}: its base model {named} is not there, nor beside the adapter;"
        " give it with --base"
    )


@torch.no_grad()
def merge(decoder: Decoder, adapter: Adapter, where: str) -> None:
    """Add an adapter to the weights it adapts, in place; InputError where they do not fit."""
    weights = dict(decoder.named_parameters())
    for layer, (a, b) in adapter.layers.items():
        weight = weights.get(f"{layer}.weight")
        if weight is None or weight.shape != (b.shape[0], a.shape[1]):
            shape = "none" if weight is None else str(tuple(weight.shape))
            raise InputError(
                f"{where}: {layer} adapts a weight of shape {(b.shape[0], a.shape[1])},"
                f" the base model's is {shape}; is this its base?"
            )
        a, b = a.to(weight.device), b.to(weight.device)
        weight.copy_(merged_weight(weight, a, b, adapter.config.scale))


def record_model(path: Path, recorder: Recorder, *, base: Path | None = None) -> str:
    """Record the files of a MODEL (and of an adapter's base) as inputs; their common digest."""
    model = resolve_model(path)
    folders = [model, base_of(model, base)] if is_adapter(model) else [model]
    total = xxhash.xxh3_128()
    for folder in folders:
        for file in sorted(folder.iterdir()) if folder.is_dir() else [folder]:
            # Run logs and manifests lie beside a model and are no part of it.
            if not file.is_file() or file.suffix not in MODEL_SUFFIXES or file.name == MANIFEST:
                continue
            recorder.read_path(file)
            total.update(f"{file.name} {recorder.inputs[-1]['digest']}\n".encode())
    return total.hexdigest()


def tokenizer_path_for(path: Path, *, base: Path | None = None) -> Path:
    """Where the tokenizer of a MODEL lies: its own directory, its GGUF file, or its base."""
    model = resolve_model(path)
    if is_adapter(model) and not (model / TOKENIZER).is_file():
        return base_of(model, base)
    return model
