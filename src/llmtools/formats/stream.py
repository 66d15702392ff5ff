"""Bytes in and out of a command: PATH or '-', compression by magic, hashing, atomic outputs.

Inputs are recognised by their first bytes (gzip, zstd, bzip2), never by their suffix, and a
compressed stream that ends early is an error, not a short read. Outputs appear whole (temporary
file + fsync + rename) or not at all.
"""

from __future__ import annotations

import bz2
import errno
import glob
import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import xxhash
import zstandard

from llmtools import terminal
from llmtools.errors import InputError, LLMToolsError, ResourceError, UsageError
from llmtools.formats.claim import Claim, check_claim, take_claim

STDIO = "-"
READ_BYTES = 1 << 20
# One zstd frame per this many bytes of data, so that a shard can be split and resumed at a frame.
ZSTD_FRAME_BYTES = 4 << 20
ZSTD_LEVEL = 3
# What a decompressor may need to look back on; zstd's own limit without --long.
ZSTD_WINDOW = 1 << 27
ZSTD_READ_BYTES = 4096
# The longest line, text file or array. It is in memory as a whole, several times over.
MAX_RECORD_BYTES = 1 << 30
DATA_SUFFIXES = (".jsonl", ".json", ".txt", ".safetensors")
COMPRESSION_SUFFIXES = ("", ".gz", ".zst", ".bz2")


def expand_inputs(inputs: Iterable[str], suffixes: tuple[str, ...] = DATA_SUFFIXES) -> list[str]:
    """Paths, directories and globs to a list of files, in a fixed order; '-' stays '-'.

    A directory stands for the files below it that end in one of `suffixes`, compressed or not,
    sorted by path; manifests and hidden files are not data. Raises InputError when a name matches
    nothing.
    """
    names: list[str] = []
    for name in inputs:
        if name == STDIO or os.path.isfile(name) or _is_pipe(name):
            names.append(name)
        elif os.path.isdir(name):
            found = sorted(str(p) for p in Path(name).rglob("*") if _is_data(p, suffixes))
            if not found:
                raise InputError(f"{name}: no {', '.join(suffixes)} file below this directory")
            names += found
        else:
            found = sorted(p for p in glob.glob(name, recursive=True) if os.path.isfile(p))
            if not found:
                raise InputError(f"{name}: no such file or directory")
            names += found
    if names.count(STDIO) > 1:
        raise UsageError("'-' (stdin) can be read only once; name it once")
    return names


def _is_pipe(name: str) -> bool:
    """Process substitution and named pipes: readable, not regular files."""
    return os.path.exists(name) and not os.path.isdir(name)


def _is_data(path: Path, suffixes: tuple[str, ...]) -> bool:
    endings = tuple(s + c for s in suffixes for c in COMPRESSION_SUFFIXES)
    return (
        path.is_file()
        and not path.name.startswith(".")
        and path.name.endswith(endings)
        and not path.name.endswith("manifest.json")
    )


def bare_suffix(name: str) -> str:
    """The suffix of a name without its compression: 'a.txt.gz' -> '.txt'."""
    path = Path(name)
    return Path(path.stem).suffix if path.suffix in COMPRESSION_SUFFIXES[1:] else path.suffix


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


class _ZstdReader(io.RawIOBase):
    """The data of zstd frames as a stream."""

    def __init__(self, source: io.BufferedReader[_Hashing]) -> None:
        self._frames = unzstd(iter(lambda: source.read1(READ_BYTES), b""))
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # As much as there is room for, so that no buffer between this and the reader is needed.
        room = memoryview(buffer)
        while room:
            if not self._output:
                found = next(self._frames, None)
                if found is None:
                    break
                self._output = memoryview(found[0])
            n = min(len(room), len(self._output))
            room[:n] = self._output[:n]
            room, self._output = room[n:], self._output[n:]
        return len(buffer) - len(room)


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
    name, first_line = "<stdin>" if path == STDIO else path, 1
    try:
        if path != STDIO:
            source = cast(BinaryIO, open(path, "rb"))
        elif _stand_in is not None:
            source, name, first_line = _stand_in
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
        raw = _ZstdReader(buffered)
    elif magic.startswith(_BZIP2):
        raw = bz2.BZ2File(buffered)
    else:
        content = _Guarded(buffered, name, stored, is_plain=True)
        return InputStream(name, stored, content, first_line)
    content = _Guarded(raw, name, stored, is_plain=False)
    return InputStream(name, stored, content, first_line)


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


class OutputStream:
    """A sink for bytes: compressed by the output's suffix, hashed as stored."""

    def __init__(
        self, name: str, sink: BinaryIO, compression: str, zstd_level: int = ZSTD_LEVEL
    ) -> None:
        self.name = name
        self._sink = sink
        self._hash = xxhash.xxh3_128()
        self._content_hash = self._hash
        self.num_bytes = 0
        self._pending: list[bytes | memoryview] = []
        self._pending_bytes = 0
        self._compress: Any = None
        if compression == ".zst":
            self._compress = zstandard.ZstdCompressor(level=zstd_level).compress
        elif compression == ".gz":
            # mtime=0 keeps the bytes a function of the data alone.
            self._compress = lambda data: gzip.compress(data, compresslevel=6, mtime=0)
        elif compression == ".bz2":
            self._compress = bz2.compress
        if self._compress is not None:
            self._content_hash = xxhash.xxh3_128()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes; they reach the sink in blocks, and must not change until then."""
        self._pending.append(data)
        self._pending_bytes += len(data)
        limit = READ_BYTES if self._compress is None else ZSTD_FRAME_BYTES
        if self._pending_bytes >= limit:
            self.flush()

    def flush(self) -> None:
        """Hand everything pending to the sink as one block (one frame, when compressed)."""
        block = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        self._pending, self._pending_bytes = [], 0
        if not block:
            return
        stored = block
        if self._compress is not None:
            stored = self._compress(block)
            self._content_hash.update(block)
        self._hash.update(stored)
        self.num_bytes += len(stored)
        left = memoryview(stored)
        while left:
            # Under PYTHONUNBUFFERED stdout is a raw file, which may write a part and say so.
            left = left[self._sink.write(left) :]
        self._sink.flush()

    @property
    def digest(self) -> str:
        """xxh3-128 (hex) of the stored bytes flushed so far."""
        return self._hash.hexdigest()

    @property
    def content_digest(self) -> str:
        """The same of the bytes before compression; equal where nothing is compressed."""
        return self._content_hash.hexdigest()


def is_device(path: str) -> bool:
    """Whether a path is a device or a named pipe, which is written to and never replaced."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def check_output(path: str, *, force: bool) -> None:
    """Refuse an output before any work starts.

    Raises ResourceError where another run is writing it or it cannot be written, UsageError where
    it exists and `force` is off.
    """
    if path == STDIO or is_device(path):
        return
    target = Path(path)
    if target.absolute() not in _claims:
        check_claim(path)
    check_existing(path, force=force)
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ResourceError(f"{path}: {parent} is not a directory that can be written")


def check_existing(path: str, *, force: bool) -> None:
    """Raises UsageError where `force` is off and there is a file, or a directory with entries."""
    target = Path(path)
    occupied = any(target.iterdir()) if target.is_dir() else target.exists()
    if occupied and not force:
        raise UsageError(f"{path} exists; choose another output or add -f to replace it")


def check_outputs(paths: Sequence[str], *, force: bool) -> None:
    """`check_output` for a command with several outputs, which must not be the same."""
    for number, path in enumerate(paths):
        if path in paths[:number]:
            name = "stdout" if path == STDIO else path
            raise UsageError(f"{name} is named for two outputs; give each its own place")
        check_output(path, force=force)


@contextmanager
def output_faults(path: str, temporary: Path | None = None) -> Iterator[None]:
    """Turn a full disk or a refused write into a ResourceError that names the output.

    A message of something below that names the temporary names the output instead.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise ResourceError(f"{path}: cannot write: {fault.strerror}") from fault
        raise
    except LLMToolsError as fault:
        if temporary is None or str(temporary) not in str(fault):
            raise
        raise type(fault)(str(fault).replace(str(temporary), path)) from fault


# Outputs that this process has claimed and not opened yet.
_claims: dict[Path, Claim] = {}


@contextmanager
def claim_outputs(paths: Sequence[str], *, force: bool, is_directory: bool) -> Iterator[None]:
    """Hold outputs that are opened only at the end of long work; raises like check_output.

    From here on another run is refused them. What is not opened in the block is let go.
    """
    check_outputs(paths, force=force)
    taken: list[Path] = []
    try:
        for path in paths:
            if path != STDIO and not is_device(path):
                claim = _claim(path, force=force, is_directory=is_directory)
                taken.append(Path(path).absolute())
                _claims[taken[-1]] = claim
        yield
    finally:
        for key in taken:
            if key in _claims:
                _claims.pop(key).abandon()


def _claim(path: str, *, force: bool, is_directory: bool) -> Claim:
    """The claim that is held already, or a new one."""
    held = _claims.pop(Path(path).absolute(), None)
    if held is not None:
        return held
    if not is_directory and Path(path).is_dir():
        raise UsageError(f"{path} is a directory; name a file")
    with output_faults(path):
        claim = take_claim(path, is_directory=is_directory)
    try:
        # Another run may have published its own between the first check and the claim.
        check_existing(path, force=force)
    except BaseException:
        claim.abandon()
        raise
    return claim


@contextmanager
def open_output(
    path: str,
    *,
    force: bool = False,
    is_binary: bool = False,
    compress: bool = True,
    zstd_level: int = ZSTD_LEVEL,
) -> Iterator[OutputStream]:
    """Write PATH or '-': the file appears whole when the block ends well, else not at all.

    Compression follows the suffix (.gz, .zst, .bz2) unless `compress` is off. Binary data to a
    terminal and an existing PATH without `force` are refused. A device such as /dev/null gets the
    bytes as they come: a rename would put a file in its place.
    """
    if path == STDIO:
        if is_binary and terminal.stdout_is_terminal():
            raise UsageError("the output is binary and stdout is a terminal; add -o FILE or a pipe")
        stream = OutputStream("<stdout>", sys.stdout.buffer, "")
        with output_faults(stream.name):
            yield stream
            stream.flush()
        return
    check_output(path, force=force)
    if is_device(path):
        with output_faults(path), open(path, "wb") as sink:
            stream = OutputStream(path, sink, "")
            yield stream
            stream.flush()
        return
    claim = _claim(path, force=force, is_directory=False)
    with output_faults(path, claim.temporary):
        try:
            with open(claim.temporary, "wb") as sink:
                compression = claim.target.suffix if compress else ""
                stream = OutputStream(path, sink, compression, zstd_level)
                yield stream
                stream.flush()
                os.fsync(sink.fileno())
            claim.publish()
        except BaseException:
            claim.abandon()
            raise


def write_file(path: Path, data: bytes) -> None:
    """Replace one small file atomically."""
    with open_output(str(path), force=True, compress=False) as out:
        out.write(data)


@contextmanager
def atomic_directory(path: str, *, force: bool = False) -> Iterator[Path]:
    """Fill a temporary directory that becomes PATH when the block ends well."""
    if is_device(path):
        raise UsageError(f"{path} is a device; name a directory")
    check_output(path, force=force)
    claim = _claim(path, force=force, is_directory=True)
    with output_faults(path, claim.temporary):
        try:
            yield claim.temporary
            for file in claim.temporary.rglob("*"):
                if file.is_file():
                    with open(file, "rb") as handle:
                        os.fsync(handle.fileno())
            claim.publish()
        except BaseException:
            claim.abandon()
            raise
