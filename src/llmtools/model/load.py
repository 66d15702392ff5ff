"""Model files to a Decoder and back: Hugging Face directories, and GGUF for reading."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from llmtools.errors import InputError, ResourceError
from llmtools.formats.checkpoint import open_checkpoint, write_checkpoint
from llmtools.formats.gguf import GGUFFile
from llmtools.formats.gguf_names import hf_config_from_gguf, hf_name, unpermute_qk
from llmtools.model.config import ModelConfig, config_from_hf, load_config
from llmtools.model.decoder import Decoder

# Files that hold the tied head a second time, or rotary tables that are computed here.
REDUNDANT = ("lm_head.weight", "rotary_emb.inv_freq")


def pick_device(device: str) -> torch.device:
    """'auto' is the first CUDA device, else the CPU; raises ResourceError when absent."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as fault:
        raise ResourceError(f"--device {device!r}: use auto, cpu, cuda or cuda:N") from fault
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ResourceError(f"--device {device}: torch sees no CUDA device (llm doctor)")
    return chosen


def read_shape(path: Path) -> tuple[ModelConfig, int]:
    """The config of a model directory or GGUF file, and the bytes of its weights, from headers.

    Raises InputError like load_model for what does not fit, but for the weights' values.
    """
    if path.is_dir():
        config = load_config(path / "config.json")
        checkpoint = open_checkpoint(path)
        shapes = {name: checkpoint.shape(name) for name in checkpoint.names()}
        num_bytes = sum(map(checkpoint.num_bytes, checkpoint.names()))
    else:
        gguf = GGUFFile(path)
        config = config_from_hf(hf_config_from_gguf(gguf.metadata, gguf.tensors), str(path))
        shapes = {hf_name(name): tensor.shape for name, tensor in gguf.tensors.items()}
        num_bytes = sum(tensor.num_bytes for tensor in gguf.tensors.values())
    _check_shapes(config, path, shapes)
    return config, num_bytes


def load_model(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Decoder:
    """Load a Hugging Face directory or a GGUF file, in evaluation mode.

    Raises InputError naming the file and tensor for anything missing, surplus or misshapen.
    """
    if path.is_dir():
        config = load_config(path / "config.json")
        checkpoint = open_checkpoint(path)
        shapes = {name: checkpoint.shape(name) for name in checkpoint.names()}
        return _fill(config, path, shapes, checkpoint.load, device, dtype)
    gguf = GGUFFile(path)
    config = config_from_hf(hf_config_from_gguf(gguf.metadata, gguf.tensors), str(path))
    gguf_names = {hf_name(name): name for name in gguf.tensors}

    def load(name: str) -> torch.Tensor:
        values = gguf.load(gguf_names[name])
        if ".q_proj." in name:
            values = unpermute_qk(values, config.num_attention_heads)
        elif ".k_proj." in name:
            values = unpermute_qk(values, config.num_key_value_heads)
        return torch.from_numpy(values)

    shapes = {name: gguf.tensors[stored].shape for name, stored in gguf_names.items()}
    return _fill(config, path, shapes, load, device, dtype)


def empty_decoder(config: ModelConfig, device: torch.device | str, dtype: torch.dtype) -> Decoder:
    """A decoder with uninitialised weights: built without memory, then allocated once."""
    with torch.device("meta"):
        decoder = Decoder(config)
    _check_memory(decoder, torch.device(device), dtype)
    # Not Module.to_empty: that asks for meta tensors' strides, which imports sympy (0.3 s).
    for module in decoder.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            values = torch.empty(parameter.shape, device=device, dtype=dtype)
            setattr(module, name, nn.Parameter(values))
    return decoder


def _check_memory(decoder: Decoder, device: torch.device, dtype: torch.dtype) -> None:
    """Raises ResourceError for weights that this machine cannot hold, whatever else it does."""
    if device.type != "cpu":
        return
    needed = sum(p.numel() for p in decoder.parameters()) * dtype.itemsize
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise ResourceError(
            f"the weights need {needed / 1e9:.1f} GB of memory, this machine has"
            f" {present / 1e9:.1f} GB; use a smaller model or another --device"
        )


def count_parameters(config: ModelConfig) -> int:
    """How many weights a decoder of this shape has."""
    with torch.device("meta"):
        return sum(p.numel() for p in Decoder(config).parameters())


def _fill(
    config: ModelConfig,
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    load: Callable[[str], torch.Tensor],
    device: torch.device | str,
    dtype: torch.dtype,
) -> Decoder:
    _check_shapes(config, path, shapes)
    decoder = empty_decoder(config, device, dtype)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            parameter.copy_(load(name))
    return decoder.eval()


def _check_shapes(config: ModelConfig, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises InputError where the tensors of some files are not those that a config has."""
    if config.num_hidden_layers > len(shapes):
        raise InputError(
            f"{path}: its config has {config.num_hidden_layers} layers, its files {len(shapes)}"
            " tensors in all"
        )
    with torch.device("meta"):
        expected = {name: p.shape for name, p in Decoder(config).named_parameters()}
    found = shapes.keys()
    missing = sorted(expected.keys() - found)
    surplus = sorted(n for n in found - expected.keys() if not n.endswith(REDUNDANT))
    if missing or surplus:
        parts = [f"missing {_some(missing)}"] * bool(missing)
        parts += [f"unexpected {_some(surplus)}"] * bool(surplus)
        raise InputError(f"{path}: its tensors do not fit its config: {'; '.join(parts)}")
    for name, shape in expected.items():
        if shapes[name] != tuple(shape):
            both = f"{shapes[name]}, its config needs {tuple(shape)}"
            raise InputError(f"{path}: tensor {name} has shape {both}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def model_tensors(decoder: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a decoder by Hugging Face name, detached."""
    return {name: p.detach() for name, p in decoder.named_parameters()}


def save_model(
    directory: Path, decoder: Decoder, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write config.json and model.safetensors into a directory that is being filled."""
    config = decoder.config.to_hf()
    dtype = str(next(decoder.parameters()).dtype).removeprefix("torch.")
    config |= {"dtype": dtype, "torch_dtype": dtype}
    tensors = model_tensors(decoder)
    write_checkpoint(directory, tensors, config, metadata=dict(metadata or {}))
