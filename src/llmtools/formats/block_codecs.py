"""Numbers as GGUF stores them: plain halves and blocks of 32 small integers with a scale.

    F32   4 bytes a value
    F16   2 bytes a value
    BF16  2 bytes a value, the upper half of a float32, rounded to nearest even
    Q8_0  block of 32: f16 d, int8 q[32]                    w = d q
    Q4_0  block of 32: f16 d, 16 bytes of nibbles           w = d (q - 8)
    Q4_1  block of 32: f16 d, f16 m, 16 bytes of nibbles    w = d q + m

Byte j of the nibbles holds value j in its low half and value j + 16 in its high half. A row (the
last axis) is a whole number of blocks. Source: ggml-quants.c of llama.cpp; decoding and encoding
are bit-equal to the `gguf` package (tests/parity/test_gguf_codecs.py), except that a block whose
scale is too small to invert in float32 is stored as zeros here and as arbitrary integers times zero
there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
F16_MAX = 65504.0
# Encoding and decoding work on about this many values at a time, which bounds the temporaries.
CHUNK_VALUES = 1 << 20

_Q8_0 = np.dtype([("d", "<f2"), ("q", "i1", 32)])
_Q4_0 = np.dtype([("d", "<f2"), ("q", "u1", 16)])
_Q4_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)])


@dataclass(frozen=True, slots=True)
class BlockType:
    """A GGUF tensor type; `decode` and `encode` are None where this version has no codec."""

    name: str
    type_id: int
    block_size: int
    block_bytes: int
    decode: Callable[[Bytes], Floats] | None = None
    encode: Callable[[Floats], Bytes] | None = None

    def num_bytes(self, num_values: int) -> int:
        """Bytes that `num_values` take (a whole number of blocks)."""
        return num_values // self.block_size * self.block_bytes


def _decode_f32(raw: Bytes) -> Floats:
    return raw.view("<f4").astype(np.float32)


def _encode_f32(values: Floats) -> Bytes:
    return values.astype("<f4").view(np.uint8)


def _decode_f16(raw: Bytes) -> Floats:
    return raw.view("<f2").astype(np.float32)


def _encode_f16(values: Floats) -> Bytes:
    return values.astype("<f2").view(np.uint8)


def _decode_bf16(raw: Bytes) -> Floats:
    return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def _encode_bf16(values: Floats) -> Bytes:
    bits = values.view(np.uint32)
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits.astype(np.uint64) + np.uint64(0x7FFF) + odd) >> np.uint64(16)
    # Rounding could carry a NaN's payload into infinity; keep it a quiet NaN.
    quiet = (bits >> np.uint32(16)) | np.uint32(64)
    return np.where(is_nan, quiet, rounded).astype("<u2").view(np.uint8)


def _decode_q8_0(raw: Bytes) -> Floats:
    blocks = raw.view(_Q8_0)
    out = blocks["q"].astype(np.float32)
    out *= blocks["d"].astype(np.float32)[:, None]
    return out.reshape(-1)


def _encode_q8_0(values: Floats) -> Bytes:
    x = values.reshape(-1, 32)
    d = np.abs(x).max(axis=1) / np.float32(127)
    scaled = x * _inverse(d)[:, None]
    # Halves round away from zero (C's roundf); numpy's rint rounds them to even.
    size = np.abs(scaled)
    whole = np.floor(size)
    whole += np.floor(np.float32(2) * (size - whole))
    blocks = np.empty(len(x), _Q8_0)
    blocks["d"] = d
    blocks["q"] = np.copysign(whole, scaled)
    return blocks.view(np.uint8)


def _decode_q4_0(raw: Bytes) -> Floats:
    blocks = raw.view(_Q4_0)
    out = _nibbles(blocks["q"])
    out -= np.float32(8)
    out *= blocks["d"].astype(np.float32)[:, None]
    return out.reshape(-1)


def _encode_q4_0(values: Floats) -> Bytes:
    x = values.reshape(-1, 32)
    # The value of largest size becomes -8 exactly, so the scale carries its sign.
    extreme = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)[:, 0]
    d = extreme / np.float32(-8)
    q = np.minimum(x * _inverse(d)[:, None] + np.float32(8.5), np.float32(15)).astype(np.uint8)
    blocks = np.empty(len(x), _Q4_0)
    blocks["d"] = d
    blocks["q"] = q[:, :16] | (q[:, 16:] << np.uint8(4))
    return blocks.view(np.uint8)


def _decode_q4_1(raw: Bytes) -> Floats:
    blocks = raw.view(_Q4_1)
    out = _nibbles(blocks["q"])
    out *= blocks["d"].astype(np.float32)[:, None]
    out += blocks["m"].astype(np.float32)[:, None]
    return out.reshape(-1)


def _nibbles(q: Bytes) -> Floats:
    """(n, 16) bytes to (n, 32) values 0..15: all low halves, then all high halves."""
    out = np.empty((len(q), 32), np.float32)
    out[:, :16] = q & np.uint8(15)
    out[:, 16:] = q >> np.uint8(4)
    return out


def _inverse(d: Floats) -> Floats:
    """1 / d, and 0 where d is zero or too small to invert."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / d
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


_TYPES = [
    BlockType("F32", 0, 1, 4, _decode_f32, _encode_f32),
    BlockType("F16", 1, 1, 2, _decode_f16, _encode_f16),
    BlockType("Q4_0", 2, 32, 18, _decode_q4_0, _encode_q4_0),
    BlockType("Q4_1", 3, 32, 20, _decode_q4_1),
    BlockType("Q5_0", 6, 32, 22),
    BlockType("Q5_1", 7, 32, 24),
    BlockType("Q8_0", 8, 32, 34, _decode_q8_0, _encode_q8_0),
    BlockType("Q2_K", 10, 256, 84),
    BlockType("Q3_K", 11, 256, 110),
    BlockType("Q4_K", 12, 256, 144),
    BlockType("Q5_K", 13, 256, 176),
    BlockType("Q6_K", 14, 256, 210),
    BlockType("IQ2_XXS", 16, 256, 66),
    BlockType("IQ2_XS", 17, 256, 74),
    BlockType("IQ3_XXS", 18, 256, 98),
    BlockType("IQ1_S", 19, 256, 50),
    BlockType("IQ4_NL", 20, 32, 18),
    BlockType("IQ3_S", 21, 256, 110),
    BlockType("IQ2_S", 22, 256, 82),
    BlockType("IQ4_XS", 23, 256, 136),
    BlockType("I8", 24, 1, 1),
    BlockType("I16", 25, 1, 2),
    BlockType("I32", 26, 1, 4),
    BlockType("I64", 27, 1, 8),
    BlockType("F64", 28, 1, 8),
    BlockType("IQ1_M", 29, 256, 56),
    BlockType("BF16", 30, 1, 2, _decode_bf16, _encode_bf16),
    BlockType("TQ1_0", 34, 256, 54),
    BlockType("TQ2_0", 35, 256, 66),
    BlockType("MXFP4", 39, 32, 17),
    BlockType("NVFP4", 40, 64, 36),
    BlockType("Q1_0", 41, 128, 18),
]
BLOCK_TYPES = {t.name: t for t in _TYPES}
BLOCK_TYPES_BY_ID = {t.type_id: t for t in _TYPES}
DECODABLE = [t.name for t in _TYPES if t.decode is not None]
ENCODABLE = [t.name for t in _TYPES if t.encode is not None]


def dequantize(raw: Bytes, type_name: str, shape: tuple[int, ...]) -> Floats:
    """Stored bytes to float32 values.

    raw: uint8, contiguous, as many bytes as `shape` takes in this type.
    raises: ValueError where this version cannot decode the type.
    """
    kind = BLOCK_TYPES[type_name]
    if kind.decode is None:
        raise ValueError(f"type {type_name} cannot be decoded; known: {', '.join(DECODABLE)}")
    flat = raw.reshape(-1)
    out = np.empty(shape, np.float32)
    values = out.reshape(-1)
    # Bad weights give values that are not finite; whoever uses them says so.
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, values.size, CHUNK_VALUES):
            stop = min(start + CHUNK_VALUES, values.size)
            values[start:stop] = kind.decode(flat[kind.num_bytes(start) : kind.num_bytes(stop)])
    return out


def quantize(values: NDArray[Any], type_name: str) -> Bytes:
    """Float values to stored bytes, shape (num_bytes,).

    raises: ValueError where this version cannot encode the type, a row is not a whole number of
    blocks, or a value or block scale is not finite in the type.
    """
    kind = BLOCK_TYPES[type_name]
    if kind.encode is None:
        raise ValueError(f"type {type_name} cannot be encoded; known: {', '.join(ENCODABLE)}")
    if values.ndim and values.shape[-1] % kind.block_size:
        raise ValueError(
            f"rows of {values.shape[-1]} values are not whole blocks of {kind.block_size}"
        )
    flat = values.reshape(-1)
    out = np.empty(kind.num_bytes(flat.size), np.uint8)
    for start in range(0, flat.size, CHUNK_VALUES):
        stop = min(start + CHUNK_VALUES, flat.size)
        chunk = np.ascontiguousarray(flat[start:stop], np.float32)
        _check_range(chunk, type_name)
        out[kind.num_bytes(start) : kind.num_bytes(stop)] = kind.encode(chunk)
    return out


# The largest value each type's half-precision scale can stand for; none for F32 and BF16.
_LARGEST = {"F16": F16_MAX, "Q8_0": 127 * F16_MAX, "Q4_0": 8 * F16_MAX}


def _check_range(values: Floats, type_name: str) -> None:
    largest = float(np.abs(values).max(initial=0))
    if not np.isfinite(largest):
        raise ValueError("it holds NaN or infinite values")
    limit = _LARGEST.get(type_name)
    if limit is not None and largest > limit:
        raise ValueError(
            f"a value of size {largest:g} is above {limit:g}, the most {type_name} holds"
        )
