"""A model directory or GGUF file written as a GGUF file of another type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from llmtools import terminal
from llmtools.errors import InputError
from llmtools.formats.block_codecs import DECODABLE, Floats
from llmtools.formats.checkpoint import Checkpoint, open_checkpoint, read_config
from llmtools.formats.gguf import GGUFFile, ValueType
from llmtools.formats.gguf_names import (
    gguf_metadata_from_hf_config,
    gguf_name,
    is_key,
    is_query,
    permute_qk,
)
from llmtools.formats.gguf_vocab import vocabulary_metadata
from llmtools.formats.gguf_writer import TensorSource, gguf_bytes, write_gguf
from llmtools.formats.manifest import KEY
from llmtools.formats.model_path import CONFIG
from llmtools.formats.output import OutputStream
from llmtools.formats.space import check_space
from llmtools.quant.rtn import FILE_TYPES, Scheme, is_fallback, stored_type

QUANTIZATION_VERSION = 2
_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written. Bytes are those of the weight files, vocabulary and headers included."""

    stream: OutputStream
    num_parameters: int
    bytes_before: int
    bytes_after: int
    weight_bytes: int
    types: dict[str, int]

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.weight_bytes / self.num_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A file that can be written: its metadata, and where each tensor comes from."""

    metadata: dict[str, Any]
    sources: list[TensorSource]
    types: dict[str, ValueType] | None
    bytes_before: int

    @property
    def num_bytes(self) -> int:
        """The size of the file."""
        return gguf_bytes(self.metadata, self.sources, metadata_types=self.types)

    @property
    def num_parameters(self) -> int:
        return sum(prod(s.shape) for s in self.sources)


def prepare_export(model: Path, scheme: Scheme, *, manifest: str | None = None) -> Prepared:
    """Everything about an export but the weights' values; raises like export_gguf."""
    types = None
    if model.is_dir():
        metadata, sources, bytes_before = _from_directory(model, scheme)
    else:
        file = GGUFFile(model)
        metadata, sources = _from_gguf(file, scheme)
        types, bytes_before = file.metadata_types, file.num_bytes
    metadata["general.file_type"] = FILE_TYPES[scheme]
    metadata["general.quantization_version"] = QUANTIZATION_VERSION
    metadata.pop(KEY, None)
    if manifest is not None:
        metadata[KEY] = manifest
    kept = [s.name for s in sources if is_fallback(s.name, s.shape, scheme)]
    if kept:
        terminal.warn(
            f"{len(kept)} matrices stay F16, their rows are not whole blocks of 32: {_some(kept)}"
        )
    return Prepared(metadata=metadata, sources=sources, types=types, bytes_before=bytes_before)


def export_gguf(
    model: Path, output: str, scheme: Scheme, *, manifest: str | None = None, force: bool = False
) -> Export:
    """Write `model` (a resolved model directory or GGUF file) as a GGUF file, tensor by tensor.

    manifest: the id of the manifest that describes the file, kept inside it.
    raises: InputError for a model that is no Llama, lacks weights or holds values that do not fit,
    ResourceError where the file would not fit on its disk.
    """
    ready = prepare_export(model, scheme, manifest=manifest)
    sources = ready.sources
    check_space(output, ready.num_bytes)
    with _counted(sources) as counted:
        stream = write_gguf(
            output, ready.metadata, counted, metadata_types=ready.types, force=force
        )
    return Export(
        stream=stream,
        num_parameters=ready.num_parameters,
        bytes_before=ready.bytes_before,
        bytes_after=stream.num_bytes,
        weight_bytes=sum(s.num_bytes for s in sources),
        types=dict(Counter(s.type_name for s in sources)),
    )


def _from_directory(model: Path, scheme: Scheme) -> tuple[dict[str, Any], list[TensorSource], int]:
    import torch

    from llmtools.model.config import config_from_hf
    from llmtools.model.load import empty_decoder

    raw = read_config(model)
    config = config_from_hf(raw, str(model / CONFIG))
    checkpoint = open_checkpoint(model)
    metadata = gguf_metadata_from_hf_config(config.to_hf())
    metadata = {
        "general.architecture": metadata.pop("general.architecture"),
        "general.type": "model",
        "general.name": _model_name(model),
        **metadata,
        **vocabulary_metadata(model, raw),
    }
    decoder = empty_decoder(config, "meta", torch.float32)
    expected = {name: tuple(p.shape) for name, p in decoder.named_parameters()}
    heads = (config.num_attention_heads, config.num_key_value_heads)
    sources = [
        _directory_source(checkpoint, name, shape, heads, scheme)
        for name, shape in expected.items()
    ]
    return metadata, sources, sum(map(checkpoint.num_bytes, checkpoint.names()))


def _directory_source(
    checkpoint: Checkpoint,
    name: str,
    shape: tuple[int, ...],
    heads: tuple[int, int],
    scheme: Scheme,
) -> TensorSource:
    own = gguf_name(name)
    found, dtype = checkpoint.shape(name), checkpoint.dtype(name)
    if found != shape:
        raise InputError(
            f"{checkpoint.directory}: weight {name!r} has shape {found}, its config needs {shape}"
        )
    if dtype not in _FLOATS:
        raise InputError(
            f"{checkpoint.directory}: weight {name!r} is {dtype}; {', '.join(_FLOATS)} are read"
        )

    def produce() -> Floats:
        values: Floats = checkpoint.load(name).float().numpy()
        if is_query(own):
            return permute_qk(values, heads[0])
        return permute_qk(values, heads[1]) if is_key(own) else values

    return TensorSource(own, shape, stored_type(own, shape, scheme), produce)


def _from_gguf(file: GGUFFile, scheme: Scheme) -> tuple[dict[str, Any], list[TensorSource]]:
    """Names, order and metadata stay; a tensor that already has its type is copied as it is."""
    unknown = sorted({t.type_name for t in file.tensors.values()} - set(DECODABLE))
    if unknown:
        raise InputError(
            f"{file.path}: it holds {', '.join(unknown)} tensors; {', '.join(DECODABLE)} are read"
        )
    sources = []
    requantized = 0
    for name, tensor in file.tensors.items():
        wanted = stored_type(name, tensor.shape, scheme)
        is_same = wanted == tensor.type_name
        requantized += not is_same and tensor.type_name not in _FLOATS
        load = file.raw if is_same else file.load
        sources.append(TensorSource(name, tensor.shape, wanted, partial(load, name)))
    if requantized:
        terminal.warn(
            f"{requantized} tensors of {file.path} are quantized already; their error stays"
            " and rounding again adds to it"
        )
    return dict(file.metadata), sources


def _model_name(model: Path) -> str:
    """A name for people: the directory's, or its run's for one step of a run."""
    path = model.resolve()
    return path.parent.name if path.name.startswith("step-") else path.name


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


@contextmanager
def _counted(sources: list[TensorSource]) -> Iterator[list[TensorSource]]:
    """The same sources, showing progress as each is produced."""
    total = sum(prod(s.shape) for s in sources)
    with terminal.progress("quantize", total, "weights") as bar:

        def counting(source: TensorSource) -> TensorSource:
            def produce() -> Any:
                values = source.produce()
                bar.update(prod(source.shape))
                return values

            return replace(source, produce=produce)

        yield [counting(source) for source in sources]
