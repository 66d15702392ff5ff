"""GGUF model files: metadata, a table of tensors, and their data in one memory-mapped file.

    magic "GGUF", u32 version (2 or 3), u64 number of tensors, u64 number of metadata pairs
    pairs:    string key, u32 type, value        (string: u64 length, UTF-8; array: u32 type, u64 n)
    tensors:  string name, u32 rank, u64 dims[rank], u32 type, u64 offset into the data
    padding to `general.alignment` (32), then the data, each tensor aligned

Everything is little-endian. Dims are stored fastest-varying first; shapes here are the reverse,
as in numpy and torch. Every count, length and offset is held against the file's size before
anything is allocated. Source: docs/gguf.md of ggml.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmtools.errors import InputError, did_you_mean
from llmtools.formats.block_codecs import (
    BLOCK_TYPES_BY_ID,
    DECODABLE,
    Floats,
    dequantize,
)
from llmtools.formats.cursor import Cursor, map_file

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"
MAX_RANK = 4
MAX_ARRAY_DEPTH = 4
# The fewest bytes a pair, a tensor entry, a string and a nested array can take.
_LEAST_PAIR = 8 + 4 + 1
_LEAST_TENSOR = 8 + 4 + 8 + 4 + 8
_LEAST_STRING = 8
_LEAST_ARRAY = 4 + 8


class ValueType(IntEnum):
    """The type codes of metadata values."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


# How each fixed-size value type lies in the file, as numpy spells it.
SCALARS: dict[ValueType, np.dtype[Any]] = {
    ValueType.UINT8: np.dtype("u1"),
    ValueType.INT8: np.dtype("i1"),
    ValueType.UINT16: np.dtype("<u2"),
    ValueType.INT16: np.dtype("<i2"),
    ValueType.UINT32: np.dtype("<u4"),
    ValueType.INT32: np.dtype("<i4"),
    ValueType.FLOAT32: np.dtype("<f4"),
    ValueType.BOOL: np.dtype("?"),
    ValueType.UINT64: np.dtype("<u8"),
    ValueType.INT64: np.dtype("<i8"),
    ValueType.FLOAT64: np.dtype("<f8"),
}


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One entry of the tensor table; `offset` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    num_bytes: int


class _Cursor(Cursor):
    """The values of a GGUF header."""

    def count(self, least_bytes: int, things: str) -> int:
        """A u64 count of things that take at least `least_bytes` each."""
        count = self.number("<Q")
        left = len(self.data) - self.at
        if count * least_bytes > left:
            raise self.fault(
                f"{count} {things} stated, too many for the {left} bytes left; the file is cut"
                " short or damaged"
            )
        return count

    def string(self) -> str:
        length = self.count(1, "bytes of text")
        raw = self.data[self.at : self.at + length]
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as fault:
            raise self.fault(f"text is not UTF-8 ({fault.reason})") from fault
        self.at += length
        return text

    def value_type(self) -> ValueType:
        code = self.number("<I")
        try:
            return ValueType(code)
        except ValueError as fault:
            raise self.fault(f"value type {code} is unknown (0 to 12)") from fault

    def scalars(self, kind: ValueType, count: int) -> NDArray[Any]:
        dtype = SCALARS[kind]
        self.need(count * dtype.itemsize)
        if kind is ValueType.BOOL:
            stored = np.frombuffer(self.data, np.uint8, count, self.at)
            if stored.max(initial=0) > 1:
                raise self.fault(f"a boolean is stored as {stored.max()}, not 0 or 1")
        values: NDArray[Any] = np.frombuffer(self.data, dtype, count, self.at).copy()
        self.at += count * dtype.itemsize
        return values

    def value(self, kind: ValueType, depth: int = 0) -> Any:
        if kind is ValueType.STRING:
            return self.string()
        if kind is not ValueType.ARRAY:
            return self.scalars(kind, 1)[0].item()
        if depth >= MAX_ARRAY_DEPTH:
            raise self.fault(f"arrays nest more than {MAX_ARRAY_DEPTH} deep")
        inner = self.value_type()
        if inner in SCALARS:
            return self.scalars(inner, self.count(SCALARS[inner].itemsize, "array elements"))
        least = _LEAST_STRING if inner is ValueType.STRING else _LEAST_ARRAY
        count = self.count(least, "array elements")
        if inner is ValueType.STRING:
            return [self.string() for _ in range(count)]
        return [self.value(inner, depth + 1) for _ in range(count)]


class GGUFFile:
    """An open GGUF file.

    metadata: key -> value: int, float, bool, str, list of str, or a numpy array of numbers
    metadata_types: key -> the ValueType it is stored as (an array's is ARRAY)
    tensors: name -> GGUFTensor, in file order
    raises: InputError naming the file and the key or tensor for anything malformed
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._data = map_file(self.path, "a GGUF file")
        self.metadata: dict[str, Any] = {}
        self.metadata_types: dict[str, ValueType] = {}
        cursor = _Cursor(self.path, self._data)
        self.version = _read_version(cursor)
        num_tensors = cursor.count(_LEAST_TENSOR, "tensors")
        num_pairs = cursor.count(_LEAST_PAIR, "metadata pairs")
        for index in range(num_pairs):
            cursor.what = f"metadata pair {index}"
            self._read_pair(cursor)
        self.alignment = self._read_alignment()
        entries = []
        for index in range(num_tensors):
            cursor.what = f"tensor {index}"
            entries.append(_read_tensor(cursor))
        start = cursor.at + -cursor.at % self.alignment
        self.tensors = self._place(entries, start)

    def _read_pair(self, cursor: _Cursor) -> None:
        key = cursor.string()
        cursor.what = f"metadata key {key!r}"
        if key in self.metadata:
            raise cursor.fault("the key stands in the file twice")
        kind = cursor.value_type()
        self.metadata[key] = cursor.value(kind)
        self.metadata_types[key] = kind

    def _read_alignment(self) -> int:
        value = self.metadata.get(ALIGNMENT_KEY, ALIGNMENT)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or value & value - 1:
            raise InputError(f"{self.path}: {ALIGNMENT_KEY} is {value!r}, not a power of two")
        return value

    def _place(self, entries: list[GGUFTensor], start: int) -> dict[str, GGUFTensor]:
        """Turn offsets into file positions; tensors lie inside the file and do not overlap."""
        tensors: dict[str, GGUFTensor] = {}
        for entry in entries:
            offset = start + entry.offset
            where = f"{self.path}: tensor {entry.name!r}"
            if entry.name in tensors:
                raise InputError(f"{where} stands in the file twice")
            if entry.offset % self.alignment:
                raise InputError(
                    f"{where}: offset {entry.offset} is not aligned to {self.alignment}"
                )
            if offset + entry.num_bytes > len(self._data):
                raise InputError(
                    f"{where} ends at byte {offset + entry.num_bytes} of a file of"
                    f" {len(self._data)}; the file is cut short or damaged"
                )
            tensors[entry.name] = GGUFTensor(
                entry.name, entry.shape, entry.type_name, offset, entry.num_bytes
            )
        in_order = sorted(tensors.values(), key=lambda t: t.offset)
        for one, two in pairwise(in_order):
            if one.offset + one.num_bytes > two.offset:
                raise InputError(f"{self.path}: tensors {one.name!r} and {two.name!r} overlap")
        return tensors

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return len(self._data)

    def tensor(self, name: str) -> GGUFTensor:
        """One tensor's entry; InputError with the nearest name where there is none."""
        if name not in self.tensors:
            near = did_you_mean(name, self.tensors)
            raise InputError(f"{self.path}: no tensor {name!r}{near}")
        return self.tensors[name]

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of a tensor, read-only, shape (num_bytes,), not copied."""
        entry = self.tensor(name)
        return np.frombuffer(self._data, np.uint8, entry.num_bytes, entry.offset)

    def load(self, name: str) -> Floats:
        """A tensor as float32; InputError where its type cannot be decoded."""
        entry = self.tensor(name)
        if entry.type_name not in DECODABLE:
            raise InputError(
                f"{self.path}: tensor {name!r} is {entry.type_name}, which this version cannot"
                f" decode (it reads {', '.join(DECODABLE)})"
            )
        return dequantize(self.raw(name), entry.type_name, entry.shape)


def is_gguf(path: Path) -> bool:
    """Whether a file begins with GGUF's magic bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _read_version(cursor: _Cursor) -> int:
    if cursor.data[:4] != MAGIC:
        raise InputError(
            f"{cursor.path}: not a GGUF file: it begins with {cursor.data[:4]!r}, not {MAGIC!r}"
        )
    cursor.at = len(MAGIC)
    version = cursor.number("<I")
    if version not in VERSIONS:
        swapped = version & 0xFFFF == 0 and version != 0
        reason = "big-endian files are not read" if swapped else "versions 2 and 3 are read"
        raise InputError(f"{cursor.path}: GGUF version {version:#x}: {reason}")
    return version


def _read_tensor(cursor: _Cursor) -> GGUFTensor:
    """One entry, its offset still relative to the data section."""
    name = cursor.string()
    cursor.what = f"tensor {name!r}"
    rank = cursor.number("<I")
    if not 1 <= rank <= MAX_RANK:
        raise cursor.fault(f"it has {rank} dimensions (1 to {MAX_RANK} are possible)")
    dims = [cursor.number("<Q") for _ in range(rank)]
    kind = BLOCK_TYPES_BY_ID.get(code := cursor.number("<I"))
    if kind is None:
        raise cursor.fault(f"type {code} is unknown")
    if min(dims) < 1 or dims[0] % kind.block_size:
        raise cursor.fault(
            f"dims {dims} are impossible for {kind.name} (blocks of {kind.block_size})"
        )
    num_bytes = kind.num_bytes(prod(dims))
    if num_bytes > len(cursor.data):
        raise cursor.fault(f"dims {dims} take {num_bytes} bytes, more than the file holds")
    return GGUFTensor(name, tuple(reversed(dims)), kind.name, cursor.number("<Q"), num_bytes)
