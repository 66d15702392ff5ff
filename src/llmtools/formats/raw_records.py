"""The bytes of an input's records, for its second reading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from llmtools.formats.output import OutputStream
from llmtools.formats.records import bare_line, holds_lines, whole_file_records
from llmtools.formats.stream import READ_BYTES, InputStream, open_input

_LINE_FEED, _RETURN, _BRACE = b"\n\r{"


def read_raw_records(
    inputs: Iterable[str], on_read: Callable[[InputStream], None] | None = None
) -> Iterator[bytes]:
    """The bytes of all records, unparsed and malformed ones too: for an input's second reading."""
    for path in inputs:
        with open_input(path) as stream:
            if holds_lines(stream):
                numbered = enumerate(stream.lines(), stream.first_line)
                yield from filter(None, (bare_line(line, number) for number, line in numbered))
            else:
                yield from (record.raw for record in whole_file_records(stream))
            if on_read is not None:
                on_read(stream)


def copy_records(
    inputs: Iterable[str],
    wanted: npt.NDArray[np.bool_],
    sink: OutputStream,
    on_read: Callable[[InputStream], None],
) -> int:
    """Write the wanted ones of all records, a line each; returns how many records there are.

    wanted: over all records, malformed ones too; what comes after its end is not written.
    """
    at = 0
    for path in inputs:
        with open_input(path) as stream:
            if holds_lines(stream):
                at += copy_lines(stream, wanted[at:], sink, has_mark=stream.first_line == 1)
            else:
                for record in whole_file_records(stream):
                    if at < wanted.size and wanted[at]:
                        sink.write(record.raw + b"\n")
                    at += 1
            on_read(stream)
    return at


def copy_lines(
    stream: BinaryIO, wanted: npt.NDArray[np.bool_], sink: OutputStream, *, has_mark: bool = False
) -> int:
    """Write the wanted ones of a stream's lines that are not blank; returns how many there are.

    has_mark: the stream may begin with a byte order mark.
    """
    at = 0
    for block in _blocks_of_lines(stream):
        data = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(data == _LINE_FEED)
        starts = np.r_[0, ends[:-1] + 1]
        if (data[starts] == _BRACE).all() and (data[ends - 1] != _RETURN).all():
            # All lines are records as they stand, so that whole runs of them can be copied.
            chosen = np.zeros(starts.size + 2, np.int8)
            own = wanted[at : at + starts.size]
            chosen[1 : 1 + own.size] = own
            steps = np.diff(chosen)
            runs = zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True)
            for first, after in runs:
                sink.write(memoryview(block)[starts[first] : ends[after - 1] + 1])
            at += starts.size
        else:
            for number, line in enumerate(block.split(b"\n")[:-1], 1 if has_mark else 2):
                if raw := bare_line(line, number):
                    if at < wanted.size and wanted[at]:
                        sink.write(raw + b"\n")
                    at += 1
        has_mark = False
    return at


def _blocks_of_lines(stream: BinaryIO) -> Iterator[bytes]:
    """A stream in blocks of whole lines; a last line without an end is given one."""
    parts: list[bytes] = []
    while block := stream.read(READ_BYTES):
        end = block.rfind(b"\n") + 1
        parts.append(block[:end] if end else block)
        if end:
            yield b"".join(parts)
            parts = [block[end:]]
    if last := b"".join(parts):
        yield last + b"\n"
