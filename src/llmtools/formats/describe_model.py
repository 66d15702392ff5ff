"""What models, adapters and tokenizers hold, told from headers: no weight is read."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

from llmtools.errors import InputError
from llmtools.formats.checkpoint import SafetensorsFile, open_checkpoint, read_json_object
from llmtools.formats.gguf import GGUFFile
from llmtools.formats.model_path import ADAPTER_CONFIG
from llmtools.formats.tensor_header import TensorEntry

ADAPTER_WEIGHTS = "adapter_model.safetensors"
# Metadata arrays longer than this are counted, and longer texts cut, for reading by people.
LONG_ARRAY = 16
LONG_TEXT = 400


def describe_model_dir(directory: Path) -> dict[str, Any]:
    """A model directory: config, parameters, types, bytes."""
    checkpoint = open_checkpoint(directory)
    entries = [checkpoint.entry(name) for name in checkpoint.names()]
    return {
        "kind": "model directory",
        "architecture": (checkpoint.config.get("architectures") or [None])[0],
        **_weights(entries),
        "files": sorted(p.name for p in directory.iterdir() if p.is_file()),
        "config": checkpoint.config,
    }


def describe_adapter(directory: Path) -> dict[str, Any]:
    """An adapter directory in the PEFT layout."""
    config = read_json_object(directory / ADAPTER_CONFIG)
    file = SafetensorsFile(directory / ADAPTER_WEIGHTS)
    return {
        "kind": "adapter",
        "type": config.get("peft_type"),
        "base_model": config.get("base_model_name_or_path"),
        **_weights(file.tensors.values()),
        "config": config,
    }


def describe_weights(path: Path) -> dict[str, Any]:
    """A safetensors file on its own."""
    file = SafetensorsFile(path)
    return {
        "kind": "weights (safetensors)",
        **_weights(file.tensors.values()),
        "metadata": file.metadata,
    }


def _weights(entries: Iterable[TensorEntry]) -> dict[str, Any]:
    listed = list(entries)
    return {
        "parameters": sum(entry.num_elements for entry in listed),
        "tensors": len(listed),
        "bytes": sum(entry.stop - entry.start for entry in listed),
        "types": _by_type((e.dtype, e.num_elements, e.stop - e.start) for e in listed),
    }


def describe_gguf(path: Path) -> dict[str, Any]:
    """A GGUF file: architecture, types, bytes, metadata without its long arrays."""
    file = GGUFFile(path)
    listed = [(t.type_name, prod(t.shape), t.num_bytes) for t in file.tensors.values()]
    parameters = sum(values for _, values, _ in listed)
    weight_bytes = sum(num_bytes for _, _, num_bytes in listed)
    return {
        "kind": "GGUF model",
        "version": file.version,
        "architecture": file.metadata.get("general.architecture"),
        "parameters": parameters,
        "tensors": len(listed),
        "bytes": file.num_bytes,
        "bits_per_weight": 8 * weight_bytes / parameters if parameters else None,
        "types": _by_type(listed),
        "metadata": {key: _short(value) for key, value in file.metadata.items()},
    }


def _by_type(listed: Iterable[tuple[str, int, int]]) -> dict[str, dict[str, int]]:
    """Type -> how many tensors, parameters and bytes it has."""
    types: dict[str, dict[str, int]] = {}
    for name, values, num_bytes in listed:
        row = types.setdefault(name, {"tensors": 0, "parameters": 0, "bytes": 0})
        row["tensors"] += 1
        row["parameters"] += values
        row["bytes"] += num_bytes
    return types


def _short(value: Any) -> Any:
    if isinstance(value, str):
        if len(value) <= LONG_TEXT:
            return value
        return f"{value[:LONG_TEXT]}... ({len(value)} characters)"
    if not hasattr(value, "__len__"):
        return value
    if len(value) > LONG_ARRAY:
        return f"[{len(value)} elements]"
    return value if isinstance(value, list) else value.tolist()


def describe_tokenizer(path: Path) -> dict[str, Any]:
    """A tokenizer.json."""
    fields = read_json_object(path)
    model = fields.get("model")
    added = fields.get("added_tokens") or []
    if not isinstance(model, dict) or "vocab" not in model or not isinstance(added, list):
        raise InputError(f"{path}: not a tokenizer.json (no model with a vocab)")
    contents = [a.get("content") for a in added if isinstance(a, dict)]
    vocab = model["vocab"]
    names = set(vocab) if isinstance(vocab, dict) else {piece[0] for piece in vocab if piece}
    return {
        "kind": "tokenizer",
        "model": model.get("type"),
        "vocab_size": len(names.union(c for c in contents if isinstance(c, str))),
        "merges": len(model.get("merges") or []),
        "added_tokens": contents if len(contents) <= LONG_ARRAY else len(contents),
        "normalizer": _kinds(fields.get("normalizer"), "normalizers"),
        "pre_tokenizer": _kinds(fields.get("pre_tokenizer"), "pretokenizers"),
    }


def _kinds(step: Any, inner: str) -> list[str]:
    """The types of a pipeline's steps."""
    if not isinstance(step, dict):
        return []
    if step.get("type") == "Sequence":
        return [kind for part in step.get(inner) or [] for kind in _kinds(part, inner)]
    return [str(step.get("type"))]
