"""One JSON object of an input, and one that is a document."""

from __future__ import annotations

from typing import Any

import orjson
import xxhash


class Record:
    """One JSON object and where it stands."""

    __slots__ = ("_fields", "line", "raw", "source")

    def __init__(self, raw: bytes, fields: dict[str, Any] | None, source: str, line: int) -> None:
        self.raw = raw
        self._fields = fields
        self.source = source
        self.line = line

    @property
    def fields(self) -> dict[str, Any]:
        """What the object holds; parsed when it is first asked for, where it was not before."""
        if self._fields is None:
            self._fields = orjson.loads(self.raw)
        found: dict[str, Any] = self._fields
        return found

    @property
    def where(self) -> str:
        return f"{self.source}:{self.line}"


class Document(Record):
    """A record with an id and a text.

    The text is given as a string or in UTF-8. text_span: where its JSON string stands in `raw`,
    where that is known.
    """

    __slots__ = ("_encoded", "_text", "id", "text_span")

    def __init__(
        self,
        raw: bytes,
        fields: dict[str, Any] | None,
        source: str,
        line: int,
        id: str,
        text: str | bytes,
        text_span: tuple[int, int] | None = None,
    ) -> None:
        self.raw = raw
        self._fields = fields
        self.source = source
        self.line = line
        self.id = id
        self._text = text if isinstance(text, str) else None
        self._encoded = text if isinstance(text, bytes) else b""
        self.text_span = text_span

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = self._encoded.decode()
        return self._text

    @property
    def encoded(self) -> bytes:
        """The text in UTF-8."""
        return self._encoded or self.text.encode()

    def with_text(self, text: str) -> Document:
        """The same document with another text, which its record does not know of."""
        return Document(self.raw, self._fields, self.source, self.line, self.id, text)


def document_hash(document_id: str) -> int:
    """xxh3-64 of a document's id: how token frames and packed shards name a document."""
    return xxhash.xxh3_64_intdigest(document_id.encode())
