"""Which document of a cluster survives: a number for each, of which the largest wins."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.errors import InputError, UsageError
from llmtools.formats.record import Document

METADATA = "metadata."
DATES = ("date", "timestamp", "created", "added")
RULES = f"first, longest, newest or {METADATA}FIELD"
NOTHING = float("-inf")


class Keep:
    """A keep rule; `first` has no values.

    longest: most characters. newest: the first of metadata's DATES that is there, ISO 8601 or
    seconds since 1970. metadata.FIELD: its number; a dot leads into an object, as in what llm score
    writes, metadata.scores.perplexity. A document without a value loses to all others;
    where no document has one, `check` says so.
    """

    def __init__(self, rule: str) -> None:
        self.rule = rule
        self._found = False
        if rule.startswith(METADATA) and rule != METADATA:
            self._value: Callable[[Document], float] = self._field
        elif rule == "longest":
            self._value = lambda document: float(len(document.text))
        elif rule == "newest":
            self._value = _newest
        elif rule != "first":
            raise UsageError(f"keep {rule!r}: write {RULES}")

    @property
    def has_values(self) -> bool:
        return self.rule != "first"

    def value(self, document: Document) -> float:
        """The document's number; raises InputError, with its place, for what is none."""
        value = self._value(document)
        self._found = self._found or value != NOTHING
        return value

    def saw(self, values: npt.NDArray[np.float64]) -> None:
        """Values that another process took."""
        self._found = self._found or bool((values != NOTHING).any())

    def check(self, source: str) -> None:
        """Raises InputError where no document had a value."""
        if self.has_values and not self._found:
            wanted = self.rule if self.rule != "newest" else f"metadata.{'|'.join(DATES)}"
            raise InputError(f"{source}: no document has {wanted}, which keep {self.rule} needs")

    def _field(self, document: Document) -> float:
        value = _nested(_metadata(document), self.rule.removeprefix(METADATA))
        if value is None:
            return NOTHING
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{document.where}: {self.rule} is {value!r}, not a number")
        return float(value)


def _metadata(document: Document) -> dict[str, Any]:
    found = document.fields.get("metadata")
    return found if isinstance(found, dict) else {}


def _nested(fields: dict[str, Any], name: str) -> Any:
    """The field of this name, or the one that its dots lead to; None where there is none."""
    if name in fields:
        return fields[name]
    outer, _, inner = name.partition(".")
    below = fields.get(outer)
    return _nested(below, inner) if inner and isinstance(below, dict) else None


def _newest(document: Document) -> float:
    metadata = _metadata(document)
    for name in DATES:
        value = metadata.get(name)
        if value is None:
            continue
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        try:
            date = datetime.fromisoformat(value)
        except (TypeError, ValueError) as fault:
            raise InputError(
                f"{document.where}: metadata.{name} is {value!r}; write a date as 2026-01-31, or"
                " seconds since 1970"
            ) from fault
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    return NOTHING
