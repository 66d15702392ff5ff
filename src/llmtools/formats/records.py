"""The JSON objects of inputs: one a line, those of one array, or a text file as one.

A file that begins with '[' is read as its elements, and a `.txt` file is one document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson

from llmtools.errors import InputError
from llmtools.formats.input_names import bare_suffix
from llmtools.formats.malformed import MalformedRecord, kind_of
from llmtools.formats.record import Record
from llmtools.formats.skips import Skips
from llmtools.formats.stream import InputStream, open_input

# Files that are no text at all, by what they begin with; all that llmtools does not read itself.
_OTHER_KINDS = {
    b"PAR1": "a Parquet file that is compressed as a whole",
    b"ARROW1": "an Arrow file",
    b"Obj\x01": "an Avro file",
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\xfd7zXZ\x00": "compressed by xz",
    b"\x04\x22\x4d\x18": "compressed by lz4",
    b"%PDF-": "a PDF",
}


def read_records(
    inputs: Iterable[str],
    on_read: Callable[[InputStream], None] | None = None,
    skips: Skips | None = None,
) -> Iterator[Record]:
    """The JSON objects of some files, in order.

    `on_read` is called with each stream after its last record (manifests take the digest there).
    Raises InputError with file and line for anything that is not a JSON object in UTF-8, which
    `skips` may drop instead.
    """
    for path in inputs:
        with open_input(path) as stream:
            yield from stream_records(stream, skips)
            if on_read is not None:
                on_read(stream)


def stream_records(stream: InputStream, skips: Skips | None = None) -> Iterator[Record]:
    """The JSON objects of an open stream; raises like read_records."""
    name = stream.stream_name
    for raw, fields, number in _parsed(stream, skips):
        yield Record(raw, fields, name, number)


def _parsed(
    stream: InputStream, skips: Skips | None
) -> Iterator[tuple[bytes, dict[str, Any], int]]:
    """Raw bytes, fields and place of each record; the inner loop of all reading."""
    if not holds_lines(stream):
        for item in whole_file_records(stream):
            if isinstance(item, Record):
                yield item.raw, item.fields, item.line
            else:
                drop(item, skips)
        return
    for number, line in enumerate(stream.lines(), stream.first_line):
        found = read_line(stream, line.rstrip(b"\r\n"), number, skips)
        if found is not None:
            yield *found, number


def read_line(
    stream: InputStream, line: bytes, number: int, skips: Skips | None
) -> tuple[bytes, dict[str, Any]] | None:
    """The record of a line; None where it is blank, or was dropped."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        fields = None
    if type(fields) is dict:
        return line, fields
    # A blank line, a byte order mark, no object, or one that has no end: rare, so that none is
    # looked for before.
    stream.check_length(line, number)
    if number == 1:
        _check_kind(line, stream.stream_name)
    raw = bare_line(line, number)
    if not raw:
        return None
    try:
        return raw, _parse(raw, f"{stream.stream_name}:{number}")
    except MalformedRecord as fault:
        drop(fault, skips)
        return None


def drop(fault: MalformedRecord, skips: Skips | None) -> None:
    if skips is None:
        raise fault
    skips.drop(fault)


def holds_lines(stream: InputStream) -> bool:
    """JSON lines, as opposed to a text file or one JSON array."""
    if stream.first_line > 1:
        return True
    start = stream.peek(64)[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    return bare_suffix(stream.stream_name) != ".txt" and not start.startswith(b"[")


def bare_line(line: bytes, number: int) -> bytes:
    """A line without its end and byte order mark; nothing where it is blank."""
    raw = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip(b"\r\n")
    return b"" if raw.isspace() else raw


def whole_file_records(stream: InputStream) -> Iterator[Record | MalformedRecord]:
    """Records of a text file or an array; what is malformed comes as the fault, not raised."""
    if bare_suffix(stream.stream_name) == ".txt":
        yield _text_record(stream)
    else:
        yield from _array_records(stream)


def _text_record(stream: InputStream) -> Record | MalformedRecord:
    name = stream.stream_name
    data = stream.whole()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as fault:
        return MalformedRecord(name, f"not UTF-8 at byte {fault.start}", data)
    fields = {"id": name, "text": text}
    return Record(orjson.dumps(fields), fields, name, 1)


def _array_records(stream: InputStream) -> Iterator[Record | MalformedRecord]:
    name = stream.stream_name
    try:
        items = orjson.loads(stream.whole().removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as fault:
        _check_memory(fault)
        # Nobody can say where the next record of a broken array begins.
        raise InputError(f"{name}:{fault.lineno}: not JSON: {fault.msg}") from fault
    for number, item in enumerate(items, 1):
        raw = orjson.dumps(item)
        if isinstance(item, dict):
            yield Record(raw, item, name, number)
        else:
            reason = f"element {number} is {kind_of(item)}, not an object"
            yield MalformedRecord(name, reason, raw)


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as fault:
        _check_memory(fault)
        reason = "not UTF-8" if not _is_utf8(raw) else f"not JSON: {fault.msg}"
        raise MalformedRecord(where, f"{reason} (column {fault.colno})", raw) from fault
    if not isinstance(value, dict):
        raise MalformedRecord(where, f"{kind_of(value)} where a JSON object was expected", raw)
    return value


def _check_kind(start: bytes, name: str) -> None:
    """Raise InputError for a file of another kind, of which no line is a record to be skipped."""
    for magic, kind in _OTHER_KINDS.items():
        if start.startswith(magic):
            raise InputError(
                f"{name}: {kind}, which is not read; give JSON lines, plain or as .gz, .zst or .bz2"
            )


def _check_memory(fault: orjson.JSONDecodeError) -> None:
    """Raise MemoryError where that is the fault: nothing is wrong with the record."""
    if fault.msg.startswith("Not enough memory"):
        raise MemoryError(fault.msg) from fault


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
