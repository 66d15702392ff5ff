"""sentencepiece's model files: a protocol buffer of pieces and of how text is prepared for them.

Read by hand, with nothing but the fields that decide ids, so that a damaged file is an error with a
message and never more than its own size in memory.
Source: sentencepiece, src/sentencepiece_model.proto; the wire format of protocol buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from llmtools.errors import InputError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MODEL_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
MAX_PIECES = 1 << 24


@dataclass(slots=True, kw_only=True)
class SentencePieceFile:
    """pieces, scores, types: by id. Defaults are those of the format."""

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    kind: str = "unigram"
    whitespace_is_suffix: bool = False
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True


def is_sentencepiece(head: bytes) -> bool:
    """Whether the first bytes of a file are a first piece: a message that begins with a string."""
    return len(head) > 4 and head[0] == 0x0A and head[2] == 0x0A and head[3] <= head[1]


def read_sentencepiece(data: bytes, where: str) -> SentencePieceFile:
    """Raises InputError naming `where` for anything that is not such a file."""
    found = SentencePieceFile()
    try:
        for number, value in _fields(data):
            if number == 1 and isinstance(value, bytes):
                _read_piece(found, value)
            elif number == 2 and isinstance(value, bytes):
                _read_trainer(found, value)
            elif number == 3 and isinstance(value, bytes):
                _read_normalizer(found, value)
    except (ValueError, struct.error) as fault:
        raise InputError(f"{where}: not a model of sentencepiece: {fault}") from fault
    if not found.pieces:
        raise InputError(f"{where}: not a model of sentencepiece: it has no pieces")
    return found


def _read_piece(found: SentencePieceFile, data: bytes) -> None:
    piece, score, kind = "", 0.0, 1
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            piece = value.decode("utf-8")
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            kind = value
    if len(found.pieces) == MAX_PIECES:
        raise ValueError(f"more than {MAX_PIECES:,} pieces")
    found.pieces.append(piece)
    found.scores.append(score)
    found.types.append(kind)


def _read_trainer(found: SentencePieceFile, data: bytes) -> None:
    for number, value in _fields(data):
        if not isinstance(value, int):
            continue
        if number == 3:
            found.kind = MODEL_KINDS.get(value, str(value))
        elif number == 24:
            found.whitespace_is_suffix = bool(value)
        elif number == 40:
            found.unk_id = _signed(value)
        elif number == 41:
            found.bos_id = _signed(value)
        elif number == 42:
            found.eos_id = _signed(value)


def _read_normalizer(found: SentencePieceFile, data: bytes) -> None:
    for number, value in _fields(data):
        if number == 2 and isinstance(value, bytes):
            found.charsmap = value
        elif number == 3:
            found.add_dummy_prefix = bool(value)
        elif number == 4:
            found.remove_extra_whitespaces = bool(value)
        elif number == 5:
            found.escape_whitespaces = bool(value)


def _signed(value: int) -> int:
    """A 32-bit number that was written as 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """The fields of a message: number and value; raises ValueError where it is cut short."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, value
        elif wire == BYTES:
            size, at = _varint(data, at)
            if size > len(data) - at:
                raise ValueError(f"a field of {size} bytes where {len(data) - at} are left")
            yield number, data[at : at + size]
            at += size
        elif wire == FIXED32:
            yield number, float(struct.unpack_from("<f", data, at)[0])
            at += 4
        elif wire == FIXED64:
            yield number, float(struct.unpack_from("<d", data, at)[0])
            at += 8
        else:
            raise ValueError(f"byte {at}: a field of type {wire}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError(f"byte {at}: a number without an end")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
