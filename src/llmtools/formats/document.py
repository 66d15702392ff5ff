"""Documents and other JSON-lines records.

One JSON object a line: {"id": "...", "text": "...", "metadata": {...}}. A file that holds one JSON
array of objects is read as its elements, and a `.txt` file is one document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import orjson
import xxhash

from llmtools.errors import InputError, did_you_mean
from llmtools.formats.input_names import bare_suffix
from llmtools.formats.malformed import MalformedRecord, kind_of, no_metadata
from llmtools.formats.output import OutputStream
from llmtools.formats.skips import Skips
from llmtools.formats.stream import READ_BYTES, InputStream, open_input

_LINE_FEED, _RETURN, _BRACE = b"\n\r{"


@dataclass(slots=True)
class Record:
    """One JSON object and where it stands."""

    raw: bytes
    fields: dict[str, Any]
    source: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.source}:{self.line}"


@dataclass(slots=True)
class Document(Record):
    """A record with an id and a text."""

    id: str
    text: str


def document_hash(document_id: str) -> int:
    """xxh3-64 of a document's id: how token frames and packed shards name a document."""
    return xxhash.xxh3_64_intdigest(document_id.encode())


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
    if not _holds_lines(stream):
        for item in _whole_file_records(stream):
            if isinstance(item, Record):
                yield item.raw, item.fields, item.line
            else:
                _drop(item, skips)
        return
    loads = orjson.loads
    for number, line in enumerate(stream.lines(), stream.first_line):
        raw = line.rstrip(b"\r\n")
        try:
            fields = loads(raw)
        except orjson.JSONDecodeError:
            fields = None
        if type(fields) is not dict:
            # A blank line, a byte order mark, no object, or one that has no end: rare, so the loop
            # looks for none.
            stream.check_length(line, number)
            raw = _bare(raw, number)
            if not raw:
                continue
            try:
                fields = _parse(raw, f"{stream.stream_name}:{number}")
            except MalformedRecord as fault:
                _drop(fault, skips)
                continue
        yield raw, fields, number


def _drop(fault: MalformedRecord, skips: Skips | None) -> None:
    if skips is None:
        raise fault
    skips.drop(fault)


def read_raw_records(
    inputs: Iterable[str], on_read: Callable[[InputStream], None] | None = None
) -> Iterator[bytes]:
    """The bytes of all records, unparsed and malformed ones too: for an input's second reading."""
    for path in inputs:
        with open_input(path) as stream:
            if _holds_lines(stream):
                numbered = enumerate(stream.lines(), stream.first_line)
                yield from filter(None, (_bare(line, number) for number, line in numbered))
            else:
                yield from (record.raw for record in _whole_file_records(stream))
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
            if _holds_lines(stream):
                at += copy_lines(stream, wanted[at:], sink, has_mark=stream.first_line == 1)
            else:
                for record in _whole_file_records(stream):
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
                if raw := _bare(line, number):
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


def _holds_lines(stream: InputStream) -> bool:
    """JSON lines, as opposed to a text file or one JSON array."""
    if stream.first_line > 1:
        return True
    start = stream.peek(64)[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    return bare_suffix(stream.stream_name) != ".txt" and not start.startswith(b"[")


def _bare(line: bytes, number: int) -> bytes:
    """A line without its end and byte order mark; nothing where it is blank."""
    raw = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip(b"\r\n")
    return b"" if raw.isspace() else raw


def _whole_file_records(stream: InputStream) -> Iterator[Record | MalformedRecord]:
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
        reason = "not UTF-8" if not _is_utf8(raw) else f"not JSON: {fault.msg}"
        raise MalformedRecord(where, f"{reason} (column {fault.colno})", raw) from fault
    if not isinstance(value, dict):
        raise MalformedRecord(where, f"{kind_of(value)} where a JSON object was expected", raw)
    return value


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def read_documents(
    inputs: Iterable[str],
    *,
    text_key: str = "text",
    id_key: str = "id",
    on_read: Callable[[InputStream], None] | None = None,
    skips: Skips | None = None,
) -> Iterator[Document]:
    """The documents of some files, in order; a document without an id is named FILE:LINE.

    Raises InputError with file, line and field where the text is absent or not a string, which
    `skips` may drop instead.
    """
    for path in inputs:
        with open_input(path) as stream:
            yield from stream_documents(stream, text_key=text_key, id_key=id_key, skips=skips)
            if on_read is not None:
                on_read(stream)


def stream_documents(
    stream: InputStream,
    *,
    text_key: str = "text",
    id_key: str = "id",
    skips: Skips | None = None,
) -> Iterator[Document]:
    """The documents of an open stream; raises like read_documents."""
    source = stream.stream_name
    checks_metadata = skips is not None and skips.adds_metadata
    for raw, fields, number in _parsed(stream, skips):
        text = fields.get(text_key)
        if type(text) is not str:
            _drop(_no_text(Record(raw, fields, source, number), text_key, text), skips)
            continue
        if checks_metadata and not isinstance(fields.get("metadata") or {}, dict):
            _drop(no_metadata(raw, fields["metadata"], f"{source}:{number}"), skips)
            continue
        key = fields.get(id_key)
        if key is None:
            document_id = f"{PurePath(source).name}:{number}"
        else:
            document_id = key if type(key) is str else orjson.dumps(key).decode()
        yield Document(raw, fields, source, number, document_id, text)


def _no_text(record: Record, text_key: str, value: Any) -> MalformedRecord:
    if text_key in record.fields:
        reason = f"field {text_key!r} is {kind_of(value)}, not a string"
        return MalformedRecord(record.where, reason, record.raw)
    strings = [k for k, v in record.fields.items() if isinstance(v, str)]
    near = did_you_mean(text_key, strings)
    found = ", ".join(map(repr, record.fields)) or "none"
    reason = f"no field {text_key!r}{near} (fields: {found}); name the text's field with --text-key"
    return MalformedRecord(record.where, reason, record.raw)
