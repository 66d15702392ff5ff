"""Documents and other JSON-lines records.

One JSON object a line: {"id": "...", "text": "...", "metadata": {...}}. A file that holds one JSON
array of objects is read as its elements, and a `.txt` file is one document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import orjson
import xxhash

from llmtools.errors import InputError, did_you_mean
from llmtools.formats.malformed import MalformedRecord, kind_of, no_metadata
from llmtools.formats.skips import Skips
from llmtools.formats.stream import InputStream, bare_suffix, open_input


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
    if not _holds_lines(stream):
        for item in _whole_file_records(stream):
            if isinstance(item, Record):
                yield item
            else:
                _drop(item, skips)
        return
    for number, raw in _lines(stream):
        try:
            fields = _parse(raw, f"{name}:{number}")
        except MalformedRecord as fault:
            _drop(fault, skips)
            continue
        yield Record(raw, fields, name, number)


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
                yield from (raw for _, raw in _lines(stream))
            else:
                yield from (record.raw for record in _whole_file_records(stream))
            if on_read is not None:
                on_read(stream)


def _holds_lines(stream: InputStream) -> bool:
    """JSON lines, as opposed to a text file or one JSON array."""
    if stream.first_line > 1:
        return True
    start = stream.peek(64)[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    return bare_suffix(stream.stream_name) != ".txt" and not start.startswith(b"[")


def _lines(stream: InputStream) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, numbered, without line ends or byte order mark."""
    for number, line in enumerate(stream, stream.first_line):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        raw = line.rstrip(b"\r\n")
        if raw and not raw.isspace():
            yield number, raw


def _whole_file_records(stream: InputStream) -> Iterator[Record | MalformedRecord]:
    """Records of a text file or an array; what is malformed comes as the fault, not raised."""
    if bare_suffix(stream.stream_name) == ".txt":
        yield _text_record(stream)
    else:
        yield from _array_records(stream)


def _text_record(stream: InputStream) -> Record | MalformedRecord:
    name = stream.stream_name
    data = stream.read()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as fault:
        return MalformedRecord(name, f"not UTF-8 at byte {fault.start}", data)
    fields = {"id": name, "text": text}
    return Record(orjson.dumps(fields), fields, name, 1)


def _array_records(stream: InputStream) -> Iterator[Record | MalformedRecord]:
    name = stream.stream_name
    try:
        items = orjson.loads(stream.read().removeprefix(b"\xef\xbb\xbf"))
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
    records = read_records(inputs, on_read, skips)
    return as_documents(records, text_key=text_key, id_key=id_key, skips=skips)


def as_documents(
    records: Iterable[Record],
    *,
    text_key: str = "text",
    id_key: str = "id",
    skips: Skips | None = None,
) -> Iterator[Document]:
    """Records as documents; raises like read_documents."""
    checks_metadata = skips is not None and skips.adds_metadata
    for record in records:
        text = record.fields.get(text_key)
        if not isinstance(text, str):
            _drop(_no_text(record, text_key, text), skips)
            continue
        if checks_metadata and not isinstance(record.fields.get("metadata") or {}, dict):
            _drop(no_metadata(record.raw, record.fields["metadata"], record.where), skips)
            continue
        key = record.fields.get(id_key)
        if key is None:
            document_id = f"{PurePath(record.source).name}:{record.line}"
        else:
            document_id = key if isinstance(key, str) else orjson.dumps(key).decode()
        yield Document(record.raw, record.fields, record.source, record.line, document_id, text)


def _no_text(record: Record, text_key: str, value: Any) -> MalformedRecord:
    if text_key in record.fields:
        reason = f"field {text_key!r} is {kind_of(value)}, not a string"
        return MalformedRecord(record.where, reason, record.raw)
    strings = [k for k, v in record.fields.items() if isinstance(v, str)]
    near = did_you_mean(text_key, strings)
    found = ", ".join(map(repr, record.fields)) or "none"
    reason = f"no field {text_key!r}{near} (fields: {found}); name the text's field with --text-key"
    return MalformedRecord(record.where, reason, record.raw)
