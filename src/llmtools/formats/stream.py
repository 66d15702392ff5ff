"""Bytes into a command: PATH or '-', decompressed by magic, hashed as they are read.

Inputs are recognised by their first bytes (gzip, zstd, bzip2, Parquet), never by their suffix, and
a compressed stream that ends early is an error, not a short read. Parquet comes as JSON lines.
"""

from __future__ import annotations

import bz2
import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, cast

import xxhash
import zstandard

from llmtools.errors import InputError
from llmtools.formats.input_names import STDIO
from llmtools.formats.parquet import MAGIC, read_lines

READ_BYTES = 1 << 20
# What a decompressor may need to look back on; zstd's own limit without --long.
ZSTD_WINDOW = 1 << 27
ZSTD_READ_BYTES = 4096
# The longest line, text file or array. It is in memory as a whole, several times over.
MAX_RECORD_BYTES = 1 << 30


class _Hashing(io.RawIOBase):
    """Counts and hashes the stored bytes of a stream while they are read."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._hash = xxhash.xxh3_128()
        self.num_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # Into the caller's buffer at once: a copy more of everything read costs as much as a hash.
        size: int = self._source.readinto(buffer)  # type: ignore[attr-defined]
        self._hash.update(memoryview(buffer)[:size])
        self.num_bytes += size
        return size

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def close(self) -> None:
        if not self.closed and self._source is not sys.stdin.buffer:
            self._source.close()
        super().close()


def unzstd(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, int, bool]]:
    """(data, stored bytes it came from, whether a frame ends with it) of zstd frames in a row.

    A few kilobytes are decompressed at a time, since each may stand for 32,000 times as many.
    Raises ZstdError, and EOFError where the last frame is cut: zstandard's own stream_reader ends
    silently there.
    """
    frame: Any = None
    for block in blocks:
        left = memoryview(block)
        while left:
            if frame is None:
                frame = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
            piece = left[:ZSTD_READ_BYTES]
            data = frame.decompress(piece)
            is_end = frame.eof
            used = len(piece) - (len(frame.unused_data) if is_end else 0)
            left = left[used:]
            if is_end:
                frame = None
            yield data, used, is_end
    if frame is not None:
        raise EOFError("zstd frame is cut short")


class _Blocks(io.RawIOBase):
    """Blocks of data as a stream."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # As much as there is room for, so that no buffer between this and the reader is needed.
        room = memoryview(buffer)
        while room:
            if not self._output:
                found = next(self._blocks, None)
                if found is None:
                    break
                self._output = memoryview(found)
            n = min(len(room), len(self._output))
            room[:n] = self._output[:n]
            room, self._output = room[n:], self._output[n:]
        return len(buffer) - len(room)


def _zstd_blocks(source: io.BufferedReader[_Hashing]) -> Iterator[bytes]:
    return (data for data, _, _ in unzstd(iter(partial(source.read1, READ_BYTES), b"")))


def _parquet_blocks(
    path: str, source: io.BufferedReader[_Hashing], stored: _Hashing
) -> Iterator[bytes]:
    """Rows come from all over a file; it is hashed beside, by as much as was read."""
    size = os.path.getsize(path)
    for lines, share in read_lines(path):
        yield lines
        while stored.num_bytes < share * size and source.read1(READ_BYTES):
            pass
    while source.read1(READ_BYTES):
        pass


class _Guarded(io.RawIOBase):
    """Decompressed bytes, hashed; turns decompression faults into one message naming the input.

    is_plain: nothing is compressed, and these are the stored bytes, which have been hashed.
    """

    def __init__(self, source: Any, name: str, stored: _Hashing, *, is_plain: bool) -> None:
        self._source, self._name, self._stored = source, name, stored
        self._hash = None if is_plain else xxhash.xxh3_128()

    def hexdigest(self) -> str:
        return self._stored.hexdigest() if self._hash is None else self._hash.hexdigest()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            size: int = self._source.readinto(buffer)
        except EOFError as fault:
            raise InputError(
                f"{self._name}: compressed data ends early; the file is truncated"
            ) from fault
        except zstandard.ZstdError as fault:
            hint = ""
            if "too much memory" in str(fault):
                hint = f" (its window is over {ZSTD_WINDOW >> 20} MiB; compress without --long)"
            raise InputError(f"{self._name}: cannot decompress: {fault}{hint}") from fault
        except (zlib.error, gzip.BadGzipFile, OSError) as fault:
            raise InputError(f"{self._name}: cannot decompress: {fault}") from fault
        if self._hash is not None:
            self._hash.update(memoryview(buffer)[:size])
        return size


class InputStream(io.BufferedReader):
    """A decompressed input that knows its name and, once read to its end, its digest."""

    def __init__(self, name: str, stored: _Hashing, content: _Guarded, first_line: int = 1) -> None:
        super().__init__(content, READ_BYTES)
        self.stream_name = name
        self.first_line = first_line
        self._stored, self._content = stored, content

    def close(self) -> None:
        super().close()
        self._stored.close()

    def lines(self) -> Iterator[bytes]:
        """The lines that follow, each with its end; too long ones in parts, see check_length."""
        return iter(partial(self.readline, MAX_RECORD_BYTES + 1), b"")

    def line_from(self, start: bytes) -> bytes:
        """The line whose beginning was read already; a too long one as far as `lines` gives it."""
        return b"".join([start, self.readline(MAX_RECORD_BYTES + 1 - len(start))])

    def check_length(self, line: bytes, number: int) -> None:
        """Raises InputError for the first part of a line that is longer than MAX_RECORD_BYTES."""
        if len(line) > MAX_RECORD_BYTES:
            raise InputError(f"{self.stream_name}:{number}: {_too_long('a line')}")

    def whole(self) -> bytes:
        """All that follows; raises InputError where it is more than MAX_RECORD_BYTES."""
        blocks, num_bytes = [], 0
        while block := self.read(READ_BYTES):
            blocks.append(block)
            num_bytes += len(block)
            if num_bytes > MAX_RECORD_BYTES:
                raise InputError(f"{self.stream_name}: {_too_long('a text or an array')}")
        return b"".join(blocks)

    @property
    def digest(self) -> str:
        """xxh3-128 (hex) of the stored bytes read so far."""
        return self._stored.hexdigest()

    @property
    def content_digest(self) -> str:
        """The same of the bytes after decompression; equal where nothing is compressed."""
        return self._content.hexdigest()

    @property
    def num_bytes(self) -> int:
        """Stored bytes read so far."""
        return self._stored.num_bytes


def _too_long(what: str) -> str:
    return (
        f"{what} of more than {MAX_RECORD_BYTES:,} bytes, which is no document; cut it before, or"
        " check whether the file is what it should be"
    )


_GZIP, _ZSTD, _BZIP2 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh"
# What compressed data begins with.
COMPRESSED = (_GZIP, _ZSTD, _BZIP2)


def open_input(path: str) -> InputStream:
    """Open PATH or '-' for reading, decompressed by magic bytes.

    Raises InputError for a missing or unreadable file, and while reading for truncated data.
    """
    name, first_line = name_of(path), 1
    try:
        if path != STDIO:
            source = cast(BinaryIO, open(path, "rb"))
        elif _stand_in is not None:
            source, _, first_line = _stand_in
        else:
            source = sys.stdin.buffer
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror or fault}") from fault
    stored = _Hashing(source)
    buffered = io.BufferedReader(stored, READ_BYTES)
    magic = buffered.peek(4)[:4]
    if magic.startswith(_GZIP):
        raw: Any = gzip.GzipFile(fileobj=buffered)
    elif magic.startswith(_ZSTD):
        raw = _Blocks(_zstd_blocks(buffered))
    elif magic.startswith(_BZIP2):
        raw = bz2.BZ2File(buffered)
    elif magic == MAGIC:
        if not os.path.isfile(path):
            stored.close()
            raise InputError(
                f"{name}: Parquet is read from its end, which no pipe gives; name the file"
            )
        raw = _Blocks(_parquet_blocks(path, buffered, stored))
    else:
        content = _Guarded(buffered, name, stored, is_plain=True)
        return InputStream(name, stored, content, first_line)
    content = _Guarded(raw, name, stored, is_plain=False)
    return InputStream(name, stored, content, first_line)


def name_of(path: str) -> str:
    """What an input is called in messages: '-' is stdin, or what stands in for it."""
    if path != STDIO:
        return path
    return "<stdin>" if _stand_in is None else _stand_in[1]


def names_of(inputs: Iterable[str]) -> str:
    """The same of several, for the beginning of a message."""
    return ", ".join(map(name_of, inputs))


def peek_stdin() -> bytes:
    """The first bytes of stdin, which stay there; b'' where it is empty or something stands in."""
    if _stand_in is not None:
        return b""
    return cast(io.BufferedReader, sys.stdin.buffer).peek(64)[:64]


# What '-' stands for instead of stdin: bytes, the name they go by, the number of their first line.
_stand_in: tuple[BinaryIO, str, int] | None = None


@contextmanager
def standing_in(source: BinaryIO, name: str = "<stdin>", first_line: int = 1) -> Iterator[None]:
    """While the block runs '-' reads `source`, a part of a file or pipe called `name`.

    Its lines are numbered from `first_line`, so that a record is called what it would be called
    where the whole is read.
    """
    global _stand_in
    _stand_in = (source, name, first_line)
    try:
        yield
    finally:
        _stand_in = None
