"""The safetensors container: a length, a JSON header, then the tensors' bytes.

    8 bytes   N, little-endian
    N bytes   {"__metadata__": {str: str}, NAME: {"dtype", "shape", "data_offsets": [a, b]}, ...}
    the rest  tensors, little-endian, row-major; offsets count from here and leave no gap

Headers are checked before anything is read or allocated on their word.
Source: the format section of the safetensors README; the same limits as its reference reader.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeGuard

import numpy as np
import orjson

from llmtools.errors import InputError

MAX_HEADER_BYTES = 100_000_000
MAX_SIZE = 1 << 48
READ_BYTES = 1 << 20

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip

_NUMPY = {
    "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "F16": "<f2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _NUMPY.items()}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: bytes `start` to `stop` of the data section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header; `data_start` is where the data section begins, in bytes."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    data_start: int
    data_bytes: int


def parse_header(text: bytes, where: str) -> Header:
    """Check the JSON header of one container.

    Raises InputError when it is not JSON of the right form, names an unknown dtype, when a tensor's
    offsets do not hold exactly its shape, or when tensors overlap or leave gaps.
    """
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError as fault:
        raise InputError(f"{where}: the safetensors header is not JSON: {fault.msg}") from fault
    if not isinstance(fields, dict):
        raise InputError(f"{where}: the safetensors header is not a JSON object")
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InputError(f"{where}: __metadata__ of a safetensors header must map names to strings")
    entries = [_entry(name, value, where) for name, value in fields.items()]
    end = 0
    for entry in sorted(entries, key=lambda e: (e.start, e.stop)):
        if entry.start != end:
            fault_kind = "overlaps another tensor" if entry.start < end else "leaves a gap"
            raise InputError(f"{where}: tensor {entry.name!r} {fault_kind} at byte {entry.start}")
        end = entry.stop
    return Header({e.name: e for e in entries}, metadata, 8 + len(text), end)


def _entry(name: str, value: Any, where: str) -> TensorEntry:
    if not isinstance(value, dict):
        raise InputError(f"{where}: tensor {name!r}: its header entry is not an object")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise InputError(f"{where}: tensor {name!r} has unknown dtype {dtype!r}")
    if (
        not _is_sizes(shape)
        or not _is_sizes(offsets)
        or len(offsets) != 2
        # A zero must not hide dimensions that no array can have.
        or math.prod(n or 1 for n in shape) > MAX_SIZE
    ):
        raise InputError(
            f"{where}: tensor {name!r}: shape {shape!r} and data_offsets {offsets!r} must be lists"
            " of sizes (0 to 2^48), the second one a pair"
        )
    start, stop = offsets
    needed = math.prod(shape) * DTYPE_BYTES[dtype]
    if stop - start != needed:
        raise InputError(
            f"{where}: tensor {name!r}: {dtype} {shape} takes {needed} bytes,"
            f" but data_offsets {offsets} hold {stop - start}"
        )
    return TensorEntry(name, dtype, tuple(shape), start, stop)


def _is_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= MAX_SIZE for n in value)


def read_header(
    stream: BinaryIO, where: str, max_header_bytes: int = MAX_HEADER_BYTES
) -> Header | None:
    """The header at the stream's position, or None at its end.

    Raises InputError for a header that is cut short, too long or malformed.
    """
    prefix = read_exactly(stream, 8, where, end_ok=True)
    if not prefix:
        return None
    (length,) = struct.unpack("<Q", prefix)
    if length > max_header_bytes:
        raise InputError(
            f"{where}: not a safetensors file: its header would take {length} bytes"
            f" (limit {max_header_bytes})"
        )
    return parse_header(read_exactly(stream, length, where), where)


def read_exactly(stream: BinaryIO, num_bytes: int, where: str, end_ok: bool = False) -> bytes:
    """`num_bytes` bytes, or none at the stream's end where `end_ok`; memory grows with what comes.

    Raises InputError when the stream ends early.
    """
    parts: list[bytes] = []
    missing = num_bytes
    while missing:
        part = stream.read(min(missing, READ_BYTES))
        if not part:
            break
        parts.append(part)
        missing -= len(part)
    if missing and not (end_ok and missing == num_bytes):
        raise InputError(
            f"{where}: truncated: {num_bytes} bytes announced, {num_bytes - missing} present"
        )
    return b"".join(parts)


def is_container(head: bytes) -> bool:
    """Whether a stream that begins with `head` (9 bytes or more) can be a safetensors container."""
    # A plausible header length leaves zeros in the upper bytes, which no text has.
    return len(head) >= 9 and head[4:8] == b"\0\0\0\0" and head[8:9] == b"{"


def view(entry: TensorEntry, data: Any) -> np.ndarray:
    """A tensor as an array that shares memory with `data`, the bytes of the data section."""
    if entry.num_elements == 0:
        return np.zeros(entry.shape, _NUMPY[entry.dtype])
    array = np.frombuffer(
        data, dtype=_NUMPY[entry.dtype], count=entry.num_elements, offset=entry.start
    )
    return array.reshape(entry.shape)


def dump(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """One container as pieces of bytes; arrays are not copied."""
    sizes = {
        name: (_NAMES[array.dtype.newbyteorder("<")], array.shape) for name, array in arrays.items()
    }
    names, header = write_header(sizes, metadata)
    yield header
    for name in names:
        yield np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data


def dump_parts(
    arrays: Mapping[str, Sequence[np.ndarray]],
    dtypes: Mapping[str, np.dtype[Any]],
    metadata: Mapping[str, str],
) -> Iterator[bytes | memoryview]:
    """One container as `dump` gives it, of tensors that come in parts, one below the other.

    Parts of a tensor differ in length alone and are cast to its dtype. Never copied as a whole:
    pieces have about READ_BYTES, so that a writer's memory is that of its arrays.
    """
    sizes = {
        name: (_NAMES[dtypes[name]], (sum(map(len, parts)), *parts[0].shape[1:]))
        for name, parts in arrays.items()
    }
    names, header = write_header(sizes, metadata)
    yield header
    for name in names:
        for part in arrays[name]:
            rows = max(1, READ_BYTES // max(1, part[:1].size * dtypes[name].itemsize))
            for at in range(0, len(part), rows):
                piece = np.ascontiguousarray(part[at : at + rows], dtypes[name])
                if piece.size:
                    yield piece.data.cast("B")


def write_header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[list[str], bytes]:
    """The names in the order their bytes must follow, and the header's bytes.

    tensors: dtype and shape by name. Wider dtypes come first, so that all are aligned.
    """
    names = sorted(tensors, key=lambda name: (-DTYPE_BYTES[tensors[name][0]], name))
    fields: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name in names:
        dtype, shape = tensors[name]
        stop = at + math.prod(shape) * DTYPE_BYTES[dtype]
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, stop]}
        at = stop
    text = orjson.dumps(fields)
    text += b" " * (-len(text) % 8)
    return names, struct.pack("<Q", len(text)) + text
