"""The fault of one record, which leaves the input around it readable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmtools.errors import InputError


class MalformedRecord(InputError):
    """One record that is not what it should be.

    where: FILE:LINE. raw: the bytes of the record.
    """

    def __init__(self, where: str, reason: str, raw: bytes) -> None:
        super().__init__(f"{where}: {reason}")
        self.where, self.reason, self.raw = where, reason, raw


class NothingLeft(InputError):
    """The input was read to its end and held nothing to work on; files of rejects are kept.

    counts: the command's report all the same, as of one part of a larger input.
    """

    def __init__(self, message: str, counts: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.counts = counts


def no_metadata(raw: bytes, value: Any, where: str) -> MalformedRecord:
    """The fault of a record whose `metadata` has another type."""
    return MalformedRecord(where, f"field 'metadata' is {kind_of(value)}, not an object", raw)


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "an array", str: "a string", type(None): "null"}
    return names.get(type(value), "a number" if not isinstance(value, bool) else "a boolean")
