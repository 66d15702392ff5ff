"""Bytes out of a command: PATH or '-', compressed by suffix, hashed as they are written.

Outputs appear whole (temporary file + fsync + rename) or not at all.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import xxhash
import zstandard

from llmtools import terminal
from llmtools.errors import LLMToolsError, ResourceError, UsageError
from llmtools.formats.claim import Claim, check_claim, take_claim
from llmtools.formats.input_names import STDIO, UNWRITTEN_SUFFIXES
from llmtools.formats.stream import READ_BYTES

# One zstd frame per this many bytes of data, so that a shard can be split and resumed at a frame.
ZSTD_FRAME_BYTES = 4 << 20
ZSTD_LEVEL = 3


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
    it exists and `force` is off, or is named like what is never written.
    """
    if path == STDIO or is_device(path):
        return
    target = Path(path)
    if target.suffix in UNWRITTEN_SUFFIXES:
        raise UsageError(
            f"{path}: llmtools writes no {target.suffix} files; name the output for what it is"
            " (.jsonl, .jsonl.zst, .safetensors, .gguf)"
        )
    if target.absolute() not in _claims:
        check_claim(path)
    check_existing(path, force=force)
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ResourceError(f"{path}: {parent} is not a directory that can be written")


def check_output_directory(path: str, *, force: bool) -> None:
    """`check_output` for a directory: no file is replaced by one, with `force` either.

    What `force` replaces is an earlier output, which a file here cannot be.
    """
    check_output(path, force=force)
    if Path(path).is_file():
        raise UsageError(f"{path} is a file; name a directory")


def check_existing(path: str, *, force: bool) -> None:
    """Raises UsageError where `force` is off and there is a file, or a directory with entries."""
    target = Path(path)
    occupied = any(target.iterdir()) if target.is_dir() else target.exists()
    if occupied and not force:
        raise UsageError(f"{path} exists; choose another output or add -f to replace it")


def check_outputs(paths: Sequence[str], *, force: bool, is_directory: bool = False) -> None:
    """The check of each output of a command with several, which must not be the same."""
    check_distinct(paths)
    for path in paths:
        (check_output_directory if is_directory else check_output)(path, force=force)


def check_distinct(paths: Sequence[str]) -> None:
    """Raises UsageError where two outputs are the same place, however it is written."""
    places = [path if path == STDIO else os.path.abspath(path) for path in paths]
    for number, path in enumerate(paths):
        if places[number] in places[:number]:
            name = "stdout" if path == STDIO else path
            raise UsageError(f"{name} is named for two outputs; give each its own place")


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
    check_outputs(paths, force=force, is_directory=is_directory)
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
    check_output_directory(path, force=force)
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
