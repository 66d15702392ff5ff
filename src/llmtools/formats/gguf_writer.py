"""Writing GGUF files, one tensor in memory at a time (see gguf.py for the layout)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmtools.errors import InputError
from llmtools.formats.block_codecs import BLOCK_TYPES, quantize
from llmtools.formats.gguf import (
    ALIGNMENT,
    ALIGNMENT_KEY,
    MAGIC,
    SCALARS,
    ValueType,
)
from llmtools.formats.output import OutputStream, open_output

VERSION = 3
_TYPE_OF_DTYPE = {dtype: kind for kind, dtype in SCALARS.items()}


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A tensor to write; `produce` gives its float values or (uint8) its stored bytes.

    It is called once, when the tensor's turn comes, so that one tensor is in memory at a time.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    produce: Callable[[], NDArray[Any]]

    @property
    def num_bytes(self) -> int:
        """Bytes the tensor takes in the file."""
        return BLOCK_TYPES[self.type_name].num_bytes(prod(self.shape))


def write_gguf(
    path: str,
    metadata: Mapping[str, Any],
    tensors: Sequence[TensorSource],
    *,
    metadata_types: Mapping[str, ValueType] | None = None,
    force: bool = False,
) -> OutputStream:
    """Write one GGUF file, which appears whole or not at all; returns its stream for manifests.

    metadata: str, bool, int, float, or a list or numpy array of one of these. Without an entry in
    `metadata_types` an int is stored as uint32 (int32 when negative, 64 bits when larger), a float
    as float32, a list of ints as int32: what llama.cpp expects of its own keys. A numpy array keeps
    its type.
    raises: InputError for a tensor whose values do not fit its type.
    """
    head = _header(metadata, tensors, metadata_types or {})
    alignment = _alignment(metadata)
    with open_output(path, force=force, is_binary=True, compress=False) as out:
        out.write(head)
        for tensor in tensors:
            _write_tensor(out, tensor, alignment)
    return out


def gguf_bytes(
    metadata: Mapping[str, Any],
    tensors: Sequence[TensorSource],
    *,
    metadata_types: Mapping[str, ValueType] | None = None,
) -> int:
    """The size of the file that write_gguf would write; no tensor is produced."""
    alignment = _alignment(metadata)
    padded = (tensor.num_bytes + -tensor.num_bytes % alignment for tensor in tensors)
    return len(_header(metadata, tensors, metadata_types or {})) + sum(padded)


def _alignment(metadata: Mapping[str, Any]) -> int:
    return int(metadata.get(ALIGNMENT_KEY, ALIGNMENT))


def _header(
    metadata: Mapping[str, Any],
    tensors: Sequence[TensorSource],
    types: Mapping[str, ValueType],
) -> bytes:
    """All bytes before the first tensor's."""
    header = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        header += [_string(key), _typed(value, types.get(key))]
    alignment = _alignment(metadata)
    offset = 0
    for tensor in tensors:
        rank = len(tensor.shape)
        type_id = BLOCK_TYPES[tensor.type_name].type_id
        header += [
            _string(tensor.name),
            struct.pack(f"<I{rank}QIQ", rank, *reversed(tensor.shape), type_id, offset),
        ]
        offset += tensor.num_bytes
        offset += -offset % alignment
    head = b"".join(header)
    return head + bytes(-len(head) % alignment)


def _write_tensor(out: OutputStream, tensor: TensorSource, alignment: int) -> None:
    values = tensor.produce()
    if values.dtype == np.uint8:
        stored = values.reshape(-1)
    else:
        if values.shape != tensor.shape:
            raise ValueError(f"{tensor.name}: {values.shape} produced, {tensor.shape} announced")
        try:
            stored = quantize(values, tensor.type_name)
        except ValueError as fault:
            raise InputError(f"tensor {tensor.name!r} as {tensor.type_name}: {fault}") from fault
    if stored.size != tensor.num_bytes:
        raise ValueError(f"{tensor.name}: {stored.size} bytes, {tensor.num_bytes} announced")
    out.write(np.ascontiguousarray(stored).data)
    out.write(bytes(-stored.size % alignment))


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _typed(value: Any, kind: ValueType | None) -> bytes:
    """A value's type code and bytes."""
    if isinstance(value, str):
        return struct.pack("<I", ValueType.STRING) + _string(value)
    if isinstance(value, list | tuple | np.ndarray):
        return struct.pack("<I", ValueType.ARRAY) + _array(value)
    if kind is None or kind not in SCALARS:
        kind = _scalar_type(value)
    return struct.pack("<I", kind) + np.full(1, value, SCALARS[kind]).tobytes()


def _scalar_type(value: Any) -> ValueType:
    if isinstance(value, np.generic):
        return _TYPE_OF_DTYPE[value.dtype]
    if isinstance(value, bool):
        return ValueType.BOOL
    if isinstance(value, float):
        return ValueType.FLOAT32
    if not isinstance(value, int):
        raise TypeError(f"GGUF metadata holds no {type(value).__name__}")
    if value < 0:
        return ValueType.INT32 if value >= -(2**31) else ValueType.INT64
    return ValueType.UINT32 if value < 2**32 else ValueType.UINT64


def _array(values: Sequence[Any] | np.ndarray[Any, Any]) -> bytes:
    """An array's element type, count and elements."""
    if isinstance(values, np.ndarray):
        kind = _TYPE_OF_DTYPE[values.dtype]
        return struct.pack("<IQ", kind, values.size) + values.tobytes()
    if all(isinstance(v, str) for v in values):
        head = struct.pack("<IQ", ValueType.STRING, len(values))
        return head + b"".join(map(_string, values))
    if isinstance(values[0], list | tuple | np.ndarray):
        head = struct.pack("<IQ", ValueType.ARRAY, len(values))
        return head + b"".join(map(_array, values))
    if all(isinstance(v, bool) for v in values):
        dtype: np.dtype[Any] = np.dtype("?")
    elif all(isinstance(v, int) for v in values):
        dtype = np.dtype("<i4") if all(-(2**31) <= v < 2**31 for v in values) else np.dtype("<i8")
    else:
        dtype = np.dtype("<f4")
    return _array(np.array(values, dtype))
