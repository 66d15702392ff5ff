"""Changing some fields of a JSON object and leaving every other byte as it was."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from llmtools.formats.malformed import MalformedRecord, kind_of, no_metadata

_SPACES = b" \t\n\r"
_COLON = ord(":")
_SPACE = re.compile(rb"[ \t\n\r]*")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_SCALAR = re.compile(rb"[^,\]}\s]+")
_NESTING = re.compile(rb'["{}\[\]]')


def encode(value: Any) -> bytes:
    """JSON as this project writes it: compact UTF-8, keys in the order given."""
    return orjson.dumps(value)


def replace_fields(
    raw: bytes, changes: Mapping[str, Any], known: Mapping[str, Any] | None = None
) -> bytes:
    """The object in `raw` with some top-level fields set, every other byte as it was.

    A field that exists is re-encoded in place (its last occurrence, the one parsers use); a new one
    is appended. `raw` must be a valid JSON object. known: what it was parsed to, where that is at
    hand: long texts are then compared with what they should be instead of walked over.
    """
    if not changes:
        return raw
    if not any(_may_hold(raw, key) for key in changes):
        # Nothing to look for, so the values, long texts among them, need not be walked over.
        end = len(raw[: raw.rindex(b"}")].rstrip(_SPACES))
        separator = b"" if raw[:end].strip(_SPACES) == b"{" else b","
        added = [encode(k) + b":" + encode(v) for k, v in changes.items()]
        return raw[:end] + separator + b",".join(added) + raw[end:]
    if known and len(changes) == 1:
        ((key, value),) = changes.items()
        start, stop = _known_span(raw, key, known.get(key))
        if start:
            return raw[:start] + encode(value) + raw[stop:]
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


def _known_span(raw: bytes, key: str, value: Any) -> tuple[int, int]:
    """Where the value of a top-level field stands that is known to be `value`; (0, 0) if unsure.

    Sure is a key that occurs once in the object, with no escape beside it, so that no other can be
    the same, and that is followed by the string as this project writes it: no string begins with
    another one, quotes and all, so the value ends there.
    """
    name = encode(key)
    at = raw.find(name)
    if type(value) is not str or at < 0:
        return 0, 0
    colon = _after_space(raw, at + len(name))
    start = _after_space(raw, colon + 1)
    text = encode(value)
    stop = start + len(text)
    if raw[colon] != _COLON or not raw.startswith(text, start):
        return 0, 0
    others = raw[:at] + raw[stop:]
    return (0, 0) if name in others or b"\\" in others else (start, stop)


def _may_hold(raw: bytes, key: str) -> bool:
    """False where an object surely has no such field; a key may be written with escapes."""
    return encode(key) in raw or b"\\u" in raw or b"\\/" in raw


def add_metadata(raw: bytes, changes: Mapping[str, Any], where: str) -> bytes:
    """The object in `raw` with some fields of its metadata set, every other byte as it was.

    Raises InputError, naming `where`, when `metadata` is there and is not an object.
    """
    value = _value_of(raw, "metadata")
    if value in (b"", b"null"):
        return replace_fields(raw, {"metadata": changes})
    if not value.startswith(b"{"):
        raise no_metadata(raw, orjson.loads(value), where)
    return replace_fields(raw, {"metadata": orjson.Fragment(replace_fields(value, changes))})


def add_within_metadata(raw: bytes, field: str, changes: Mapping[str, Any], where: str) -> bytes:
    """The object in `raw` with some fields of its metadata.FIELD set, every other byte as it was.

    Raises InputError, naming `where`, when `metadata` or that field is there and is not an object.
    """
    metadata = _value_of(raw, "metadata")
    value = _value_of(metadata, field) if metadata.startswith(b"{") else b""
    if value in (b"", b"null"):
        return add_metadata(raw, {field: changes}, where)
    if not value.startswith(b"{"):
        reason = f"field 'metadata.{field}' is {kind_of(orjson.loads(value))}, not an object"
        raise MalformedRecord(where, reason, raw)
    return add_metadata(raw, {field: orjson.Fragment(replace_fields(value, changes))}, where)


def _value_of(raw: bytes, key: str) -> bytes:
    """The bytes of a field's value; empty where there is none."""
    if not _may_hold(raw, key):
        return b""
    start, stop = _field_spans(raw)[0].get(key, (0, 0))
    return raw[start:stop]


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
    if raw[at] not in _SPACES:
        return at
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
