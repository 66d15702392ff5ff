"""Input files cut into units that can be read on their own.

Plain JSON lines are cut at line ends, zstd files at frames that end with a line. A single-frame
.zst, a .gz, a .bz2, one JSON array and a text file cannot be entered in the middle: each is read
whole by one unit. Where to cut depends on the input and the size asked for, never on the workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import xxhash
import zstandard

from llmtools.errors import InputError
from llmtools.formats.input_names import bare_suffix
from llmtools.formats.stream import READ_BYTES, unzstd
from llmtools.shards.unit import Part, Piece

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A place where a reader can start: byte as stored, and the number of the line there."""

    at: int
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One input file: its size and xxh3-128 as stored, and where it can be cut.

    cuts: starts of its pieces, the first at 0. is_splittable: False where the content cannot be
    entered in the middle however small the pieces.
    """

    path: str
    num_bytes: int
    digest: str
    cuts: tuple[Cut, ...]
    is_splittable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The input of one unit: whole files, or one piece of a file with its first line's number.

    parent: the file that the piece is of. files_from: a list of the files to take below `files`.
    """

    files: tuple[str, ...] = ()
    files_from: str | None = None
    piece: Piece | None = None
    parent: Part | None = None
    first_line: int = 1


class _Counter:
    """Watches text go by and says where a piece may start."""

    def __init__(self, shard_bytes: int) -> None:
        self._shard_bytes = shard_bytes
        self._since_cut = 0
        self.lines = 0
        self.cuts = [Cut(at=0, line=1)]

    def see(self, text: bytes) -> None:
        self._since_cut += len(text)
        self.lines += text.count(b"\n")

    @property
    def left(self) -> int:
        """Bytes until the piece is full."""
        return max(self._shard_bytes - self._since_cut, 0)

    def cut(self, at: int) -> None:
        self.cuts.append(Cut(at=at, line=self.lines + 1))
        self._since_cut = 0


def scan(path: str, shard_bytes: int, *, is_lines: bool = False) -> Scan:
    """Read a file once: its digest and its cuts. Raises InputError where it cannot be read.

    is_lines: it is known to hold JSON lines.
    """
    counter = _Counter(shard_bytes)
    digest = xxhash.xxh3_128()
    try:
        with open(path, "rb") as file:
            start = file.read(64)
            file.seek(0)
            blocks = _hashed(file, digest)
            if start.startswith(ZSTD_MAGIC):
                is_splittable = _scan_frames(blocks, counter) and bare_suffix(path) != ".txt"
            elif start[:2] == b"\x1f\x8b" or start[:3] == b"BZh" or not _is_lines(path, start):
                is_splittable = False
                for _ in blocks:
                    pass
            else:
                is_splittable = True
                _scan_lines(blocks, counter)
            size = file.tell()
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror or fault}") from fault
    cuts = [cut for cut in counter.cuts if cut.at < size] if is_splittable else counter.cuts[:1]
    return Scan(
        path=path,
        num_bytes=size,
        digest=digest.hexdigest(),
        cuts=tuple(cuts),
        is_splittable=is_splittable,
    )


def _is_lines(path: str, start: bytes) -> bool:
    content = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    return bare_suffix(path) not in (".txt", ".safetensors") and content.startswith(b"{")


def _hashed(file: BinaryIO, digest: xxhash.xxh3_128) -> Iterator[bytes]:
    while block := file.read(READ_BYTES):
        digest.update(block)
        yield block


def _scan_lines(blocks: Iterable[bytes], counter: _Counter) -> None:
    at = 0
    for block in blocks:
        start = 0
        while start < len(block):
            end = block.find(b"\n", start + max(counter.left - 1, 0)) + 1
            if not end:
                counter.see(block[start:])
                break
            counter.see(block[start:end])
            counter.cut(at + end)
            start = end
        at += len(block)


def _scan_frames(blocks: Iterable[bytes], counter: _Counter) -> bool:
    """False where the file is damaged or holds an array: the command that reads it says so."""
    at, is_first, last = 0, True, b""
    try:
        for text, used, is_end in unzstd(blocks):
            at += used
            if is_first and text:
                is_first = False
                if not text[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                    return False
            counter.see(text)
            last = text[-1:] or last
            if is_end and last == b"\n" and counter.left == 0:
                counter.cut(at)
    except (zstandard.ZstdError, EOFError):
        return False
    return True


def shares(scans: Iterable[Scan], shard_bytes: int) -> Iterator[Share]:
    """The inputs of the units, in order: files that are cut give a share a piece, small files go
    together until they fill one."""
    held: list[str] = []
    held_bytes = 0
    for found in scans:
        is_cut = len(found.cuts) > 1
        if held and (is_cut or held_bytes + found.num_bytes > shard_bytes):
            yield Share(files=tuple(held))
            held, held_bytes = [], 0
        if not is_cut:
            held.append(found.path)
            held_bytes += found.num_bytes
            continue
        ends = [*(cut.at for cut in found.cuts[1:]), found.num_bytes]
        parent = Part(path=found.path, num_bytes=found.num_bytes, num_lines=0, digest=found.digest)
        for cut, end in zip(found.cuts, ends, strict=True):
            piece = Piece(path=found.path, start=cut.at, end=end)
            yield Share(piece=piece, parent=parent, first_line=cut.line)
    if held:
        yield Share(files=tuple(held))
