"""Documents and other JSON-lines records.

One JSON object a line: {"id": "...", "text": "...", "metadata": {...}}. A record that is not
changed is written as the bytes that were read; in a changed one only the changed fields are
re-encoded. A file that holds one JSON array of objects is read as its elements, and a `.txt` file
is one document.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import orjson
import xxhash

from llmtools.errors import InputError, did_you_mean
from llmtools.formats.stream import InputStream, bare_suffix, open_input

_SPACE = re.compile(rb"[ \t\n\r]*")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_SCALAR = re.compile(rb"[^,\]}\s]+")
_NESTING = re.compile(rb'["{}\[\]]')


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
    inputs: Iterable[str], on_read: Callable[[InputStream], None] | None = None
) -> Iterator[Record]:
    """The JSON objects of some files, in order.

    `on_read` is called with each stream after its last record (manifests take the digest there).
    Raises InputError with file and line for anything that is not a JSON object in UTF-8.
    """
    for path in inputs:
        with open_input(path) as stream:
            yield from stream_records(stream)
            if on_read is not None:
                on_read(stream)


def stream_records(stream: InputStream) -> Iterator[Record]:
    """The JSON objects of an open stream; raises like read_records."""
    name = stream.stream_name
    if _holds_lines(stream):
        for number, raw in _lines(stream):
            yield Record(raw, _parse(raw, f"{name}:{number}"), name, number)
    else:
        yield from _whole_file_records(stream)


def read_raw_records(
    inputs: Iterable[str], on_read: Callable[[InputStream], None] | None = None
) -> Iterator[bytes]:
    """The bytes of the same records, unparsed: for the second reading of an input."""
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
    start = stream.peek(64)[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    return bare_suffix(stream.stream_name) != ".txt" and not start.startswith(b"[")


def _lines(stream: InputStream) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, numbered from 1, without line ends or byte order mark."""
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        raw = line.rstrip(b"\r\n")
        if raw and not raw.isspace():
            yield number, raw


def _whole_file_records(stream: InputStream) -> Iterator[Record]:
    if bare_suffix(stream.stream_name) == ".txt":
        yield _text_record(stream)
    else:
        yield from _array_records(stream)


def _text_record(stream: InputStream) -> Record:
    name = stream.stream_name
    try:
        text = stream.read().decode("utf-8")
    except UnicodeDecodeError as fault:
        raise InputError(f"{name}: not UTF-8 at byte {fault.start}") from fault
    fields = {"id": name, "text": text}
    return Record(orjson.dumps(fields), fields, name, 1)


def _array_records(stream: InputStream) -> Iterator[Record]:
    name = stream.stream_name
    try:
        items = orjson.loads(stream.read().removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as fault:
        raise InputError(f"{name}:{fault.lineno}: not JSON: {fault.msg}") from fault
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise InputError(f"{name}: element {number} is {_kind(item)}, not an object")
        yield Record(orjson.dumps(item), item, name, number)


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as fault:
        reason = "not UTF-8" if not _is_utf8(raw) else f"not JSON: {fault.msg}"
        raise InputError(f"{where}: {reason} (column {fault.colno})") from fault
    if not isinstance(value, dict):
        raise InputError(f"{where}: {_kind(value)} where a JSON object was expected")
    return value


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", type(None): "null"}
    return names.get(type(value), "a number" if not isinstance(value, bool) else "a boolean")


def read_documents(
    inputs: Iterable[str],
    *,
    text_key: str = "text",
    id_key: str = "id",
    on_read: Callable[[InputStream], None] | None = None,
) -> Iterator[Document]:
    """The documents of some files, in order; a document without an id is named FILE:LINE.

    Raises InputError with file, line and field where the text is absent or not a string.
    """
    return as_documents(read_records(inputs, on_read), text_key=text_key, id_key=id_key)


def as_documents(
    records: Iterable[Record], *, text_key: str = "text", id_key: str = "id"
) -> Iterator[Document]:
    """Records as documents; raises like read_documents."""
    for record in records:
        text = record.fields.get(text_key)
        if not isinstance(text, str):
            raise InputError(_no_text(record, text_key, text))
        key = record.fields.get(id_key)
        if key is None:
            document_id = f"{PurePath(record.source).name}:{record.line}"
        else:
            document_id = key if isinstance(key, str) else orjson.dumps(key).decode()
        yield Document(record.raw, record.fields, record.source, record.line, document_id, text)


def _no_text(record: Record, text_key: str, value: Any) -> str:
    if text_key in record.fields:
        return f"{record.where}: field {text_key!r} is {_kind(value)}, not a string"
    strings = [k for k, v in record.fields.items() if isinstance(v, str)]
    near = did_you_mean(text_key, strings)
    found = ", ".join(map(repr, record.fields)) or "none"
    return (
        f"{record.where}: no field {text_key!r}{near} (fields: {found});"
        " name the text's field with --text-key"
    )


def encode(value: Any) -> bytes:
    """JSON as this project writes it: compact UTF-8, keys in the order given."""
    return orjson.dumps(value)


def replace_fields(raw: bytes, changes: Mapping[str, Any]) -> bytes:
    """The object in `raw` with some top-level fields set, every other byte as it was.

    A field that exists is re-encoded in place (its last occurrence, the one parsers use); a new one
    is appended. `raw` must be a valid JSON object.
    """
    spans, end = _field_spans(raw)
    edits = [(*spans[k], encode(v)) for k, v in changes.items() if k in spans]
    added = [encode(k) + b":" + encode(v) for k, v in changes.items() if k not in spans]
    if added:
        separator = b"," if spans else b""
        edits.append((end, end, separator + b",".join(added)))
    out = raw
    for start, stop, new in sorted(edits, reverse=True):
        out = out[:start] + new + out[stop:]
    return out


def add_metadata(raw: bytes, changes: Mapping[str, Any], where: str) -> bytes:
    """The object in `raw` with some fields of its metadata set, every other byte as it was.

    Raises InputError, naming `where`, when `metadata` is there and is not an object.
    """
    spans, _ = _field_spans(raw)
    start, stop = spans.get("metadata", (0, 0))
    value = raw[start:stop]
    if value in (b"", b"null"):
        return replace_fields(raw, {"metadata": changes})
    if not value.startswith(b"{"):
        raise InputError(
            f"{where}: field 'metadata' is {_kind(orjson.loads(value))}, not an object"
        )
    return replace_fields(raw, {"metadata": orjson.Fragment(replace_fields(value, changes))})


def _field_spans(raw: bytes) -> tuple[dict[str, tuple[int, int]], int]:
    """Byte spans of the top-level values, and the place just after the last value."""
    spans: dict[str, tuple[int, int]] = {}
    at = raw.index(b"{") + 1
    end = at
    while True:
        at = _after_space(raw, at)
        if raw[at : at + 1] == b",":
            at = _after_space(raw, at + 1)
        if raw[at : at + 1] == b"}":
            return spans, end
        key_end = _after_value(raw, at)
        key = orjson.loads(raw[at:key_end])
        at = _after_space(raw, raw.index(b":", key_end) + 1)
        end = _after_value(raw, at)
        spans[key] = (at, end)
        at = end


def _after_space(raw: bytes, at: int) -> int:
    match = _SPACE.match(raw, at)
    assert match is not None
    return match.end()


def _after_value(raw: bytes, at: int) -> int:
    opening = raw[at : at + 1]
    if opening == b'"':
        match = _STRING.match(raw, at)
        assert match is not None
        return match.end()
    if opening not in (b"{", b"["):
        match = _SCALAR.match(raw, at)
        assert match is not None
        return match.end()
    depth = 0
    while True:
        mark = _NESTING.search(raw, at)
        assert mark is not None
        if mark[0] == b'"':
            at = _after_value(raw, mark.start())
            continue
        depth += 1 if mark[0] in (b"{", b"[") else -1
        at = mark.end()
        if depth == 0:
            return at
