"""Model directories in the Hugging Face layout: config.json and weights in safetensors files.

Weights lie in `model.safetensors`, or in shards that `model.safetensors.index.json` names. Headers
are checked when a directory is opened; a weight is read (memory-mapped) when it is asked for.
Pickled weights (`.bin`, `.pt`) are never loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from llmtools.errors import InputError, did_you_mean
from llmtools.formats.output import output_faults
from llmtools.formats.tensor_header import TensorEntry, read_header, write_header

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = {
    "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.float64": "F64", "torch.int64": "I64", "torch.int32": "I32", "torch.uint8": "U8",
    "torch.bool": "BOOL",
}  # fmt: skip
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "consolidated.00.pth")


def read_json_object(path: Path) -> dict[str, Any]:
    """A small JSON file that holds one object; InputError naming the file for anything else."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror or fault}") from fault
    except (ValueError, RecursionError) as fault:
        raise InputError(f"{path}: not JSON: {fault}") from fault
    if not isinstance(value, dict):
        raise InputError(f"{path}: a JSON object was expected, this is {type(value).__name__}")
    return value


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a model directory."""
    return read_json_object(directory / CONFIG)


class SafetensorsFile:
    """One safetensors file whose header has been checked against its size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                header = read_header(file, str(path))
        except OSError as fault:
            raise InputError(f"{path}: {fault.strerror or fault}") from fault
        if header is None:
            raise InputError(f"{path}: not a safetensors file: it is empty")
        size, needed = path.stat().st_size, header.data_start + header.data_bytes
        if size != needed:
            state = "cut short" if size < needed else "damaged"
            raise InputError(f"{path}: {size} bytes where its header needs {needed}; it is {state}")
        self.tensors = header.tensors
        self.metadata = header.metadata
        self._handle: Any = None

    def load(self, name: str) -> torch.Tensor:
        """One tensor, memory-mapped: its pages are read when they are used."""
        try:
            if self._handle is None:
                self._handle = safe_open(self.path, framework="pt")
            tensor: torch.Tensor = self._handle.get_tensor(name)
        except SafetensorError as fault:
            raise InputError(f"{self.path}: cannot read {name!r}: {fault}") from fault
        return tensor


class Checkpoint:
    """The weights of a model directory, by name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = read_config(directory)
        self._files = _open_files(directory)

    def names(self) -> list[str]:
        """The weights' names, in a fixed order."""
        return sorted(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def _file(self, name: str) -> SafetensorsFile:
        if name not in self._files:
            near = did_you_mean(name, self._files)
            raise InputError(f"{self.directory}: no weight {name!r}{near}")
        return self._files[name]

    def entry(self, name: str) -> TensorEntry:
        """A weight's header entry; InputError with the nearest name where there is none."""
        return self._file(name).tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """A weight's shape."""
        return self.entry(name).shape

    def dtype(self, name: str) -> str:
        """A weight's type as safetensors spells it: F32, F16, BF16, ..."""
        return self.entry(name).dtype

    def num_bytes(self, name: str) -> int:
        """Bytes a weight takes."""
        entry = self.entry(name)
        return entry.stop - entry.start

    def load(self, name: str) -> torch.Tensor:
        """A weight as it is stored, memory-mapped."""
        return self._file(name).load(name)


def open_checkpoint(directory: Path) -> Checkpoint:
    """Open a model directory, checking every header.

    raises: InputError for missing or pickled weights, a file cut short or lying about sizes, an
    index that names a missing shard, a missing weight or a place outside the directory.
    """
    return Checkpoint(directory)


def _open_files(directory: Path) -> dict[str, SafetensorsFile]:
    if (directory / INDEX).is_file():
        return _open_shards(directory)
    if not (directory / WEIGHTS).is_file():
        pickled = next((name for name in PICKLED if (directory / name).exists()), None)
        if pickled is not None:
            raise InputError(
                f"{directory / pickled}: pickled weights are never loaded, since unpickling runs"
                f" code; convert them to {WEIGHTS} with the tool that made them"
            )
        raise InputError(f"{directory}: no {WEIGHTS} and no {INDEX} in this model directory")
    file = SafetensorsFile(directory / WEIGHTS)
    return dict.fromkeys(file.tensors, file)


def _open_shards(directory: Path) -> dict[str, SafetensorsFile]:
    index = directory / INDEX
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: no weight_map object with weights and their files")
    shards: dict[str, SafetensorsFile] = {}
    for weight, name in weight_map.items():
        if (
            not isinstance(name, str)
            or name != Path(name).name
            or not name.endswith(".safetensors")
        ):
            raise InputError(
                f"{index}: {weight} is said to lie in {name!r}; a shard is a .safetensors file of"
                " the same directory"
            )
        if name not in shards:
            if not (directory / name).is_file():
                raise InputError(f"{index}: shard {name} is missing ({weight} lies in it)")
            shards[name] = SafetensorsFile(directory / name)
        if weight not in shards[name].tensors:
            raise InputError(f"{index}: {weight} is not in {name}, where the index has it")
    return {weight: shards[name] for weight, name in weight_map.items()}


def write_checkpoint(
    directory: Path,
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write config.json and model.safetensors into a directory that is being filled.

    Weights that share their memory are written once when config.tie_word_embeddings is set (the
    first name stays, transformers ties the other on loading), else each under its own name.
    """
    is_tied = bool(config.get("tie_word_embeddings"))
    seen: set[tuple[Any, ...]] = set()
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        shared = tensor.numel() > 0 and key in seen
        if shared and is_tied:
            continue
        seen.add(key)
        value = tensor.detach().to("cpu").contiguous()
        stored[name] = value.clone() if shared or _is_view(value) else value
    save_tensors(directory / WEIGHTS, stored, metadata)
    text = json.dumps(dict(config), indent=2, ensure_ascii=False)
    (directory / CONFIG).write_text(text + "\n", "utf-8")


def save_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write one safetensors file of contiguous CPU tensors, one after another.

    safetensors' own writer gives `__metadata__` another order in every process, and equal runs must
    give equal bytes. raises: ResourceError where the file cannot be written, as on a full disk.
    """
    import torch

    sizes = {name: (_DTYPES[str(t.dtype)], tuple(t.shape)) for name, t in tensors.items()}
    names, header = write_header(sizes, {"format": "pt", **(metadata or {})})
    with output_faults(str(path)), open(path, "wb") as file:
        file.write(header)
        for name in names:
            # A view of bytes works for bf16 too, which numpy does not know.
            file.write(tensors[name].detach().reshape(-1).view(torch.uint8).numpy().data)


def _is_view(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a part of a larger storage, which safetensors refuses to save."""
    return tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()
