"""Documents of inputs.

One JSON object a line: {"id": "...", "text": "...", "metadata": {...}}. A file that holds one JSON
array of objects is read as its elements, and a `.txt` file is one document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath
from typing import Any

import orjson

from llmtools.errors import did_you_mean
from llmtools.formats.document_scan import scan_lines
from llmtools.formats.malformed import MalformedRecord, kind_of, no_metadata
from llmtools.formats.record import Document, Record
from llmtools.formats.records import drop, holds_lines, read_line, stream_records
from llmtools.formats.skips import Skips
from llmtools.formats.stream import InputStream, open_input


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
    if not holds_lines(stream):
        for record in stream_records(stream, skips):
            yield from _document(record, text_key, id_key, skips)
        return
    for number, (line, taken) in enumerate(scan_lines(stream, text_key, id_key), stream.first_line):
        if taken is not None:
            text, name, span = taken
            name = _place(source, number) if name is None else name
            yield Document(line, None, source, number, name, text, span)
        elif found := read_line(stream, line, number, skips):
            yield from _document(Record(*found, source, number), text_key, id_key, skips)


def _document(
    record: Record, text_key: str, id_key: str, skips: Skips | None
) -> Iterator[Document]:
    """The document that a record is; none where it is dropped."""
    fields = record.fields
    text = fields.get(text_key)
    if type(text) is not str:
        drop(_no_text(record, text_key, text), skips)
        return
    checks_metadata = skips is not None and skips.adds_metadata
    if checks_metadata and not isinstance(fields.get("metadata") or {}, dict):
        drop(no_metadata(record.raw, fields["metadata"], record.where), skips)
        return
    name = fields.get(id_key)
    if name is None:
        name = _place(record.source, record.line)
    elif type(name) is not str:
        name = orjson.dumps(name).decode()
    yield Document(record.raw, fields, record.source, record.line, name, text)


def _place(source: str, line: int) -> str:
    """What a document without an id is called."""
    return f"{PurePath(source).name}:{line}"


def _no_text(record: Record, text_key: str, value: Any) -> MalformedRecord:
    if text_key in record.fields:
        reason = f"field {text_key!r} is {kind_of(value)}, not a string"
        return MalformedRecord(record.where, reason, record.raw)
    strings = [k for k, v in record.fields.items() if isinstance(v, str)]
    near = did_you_mean(text_key, strings)
    found = ", ".join(map(repr, record.fields)) or "none"
    reason = f"no field {text_key!r}{near} (fields: {found}); name the text's field with --text-key"
    return MalformedRecord(record.where, reason, record.raw)
