"""What a rule of `llm filter` is: thresholds, and a verdict on every document of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Check:
    """One threshold of a rule: a document whose measure lies beyond it is dropped.

    Each equals itself alone, so that counting what documents failed costs little.

    threshold: a whole number makes the measured value one too. allowed: what a text measure may be.
    """

    rule: str
    measure: str
    threshold: float | str
    is_minimum: bool = False

    @cached_property
    def full_name(self) -> str:
        """As drop logs name it. Made once, as every dropped document has one."""
        return f"{self.rule}: {self.measure}"

    def as_written(self, value: float | str) -> float | str:
        """A count as a whole number, a fraction as a float, NaN (nothing to divide by) as 0."""
        if isinstance(value, str):
            return value
        if value != value:
            return 0.0
        if isinstance(self.threshold, int) and value == int(value):
            return int(value)
        return value


@dataclass(slots=True, kw_only=True)
class Reject:
    """Why a document was dropped: the first check it failed.

    Not frozen, as there is one for each document that is: making a frozen one takes three times as
    long.
    """

    check: Check
    value: float | str

    def as_dict(self) -> dict[str, float | str]:
        """For metadata.reject."""
        return {
            "rule": self.check.rule,
            "measure": self.check.measure,
            "value": self.check.as_written(self.value),
            "threshold": self.check.threshold,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What a rule says of the D documents of a batch.

    rejects:  [D], None for a document that passes.
    measures: [D] when asked to annotate, else empty: every value the rule looks at, by name.
    metadata: [D] when asked to annotate, else empty: fields that have a name of their own beside
              metadata.measures, as metadata.language.
    texts:    the changed texts of documents that pass, by row, UTF-8.
    """

    rejects: Sequence[Reject | None]
    measures: Sequence[dict[str, Any]] = ()
    metadata: Sequence[dict[str, Any]] = ()
    texts: dict[int, bytes] = field(default_factory=dict)


class Rule(ABC):
    """One rule with its thresholds set.

    name: as in --rules. checks: its thresholds, in the order they are tried. record: what the
    manifest says of it: its settings, and the digests of the files it reads.
    """

    name: str
    checks: tuple[Check, ...]
    record: dict[str, Any]

    @abstractmethod
    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        """Judge all documents of a batch; with `annotate` also give what was measured."""

    def doubt(self) -> str:
        """What makes the rule itself look wrong after all documents were judged, else ''."""
        return ""

    def missing(self) -> Mapping[str, int]:
        """How many documents so far lacked a field of the record that the rule asks for."""
        return {}


def judge(values: Values, checks: Sequence[Check]) -> list[Reject | None]:
    """The first failed check of each row of `values` (D, checks), or None.

    A value at the threshold passes, and so does NaN.
    """
    rejects: list[Reject | None] = [None] * len(values)
    if not checks:
        return rejects
    thresholds = np.array([check.threshold for check in checks], np.float64)
    signs = np.array([-1.0 if check.is_minimum else 1.0 for check in checks])
    fails = values * signs > thresholds * signs
    first = fails.argmax(axis=1)
    for row in np.flatnonzero(fails.any(axis=1)).tolist():
        column = int(first[row])
        rejects[row] = Reject(check=checks[column], value=float(values[row, column]))
    return rejects


def verdicts(values: Values, checks: Sequence[Check], *, annotate: bool) -> Verdicts:
    """The verdicts of a rule whose checks are the columns of `values`."""
    measures: list[dict[str, Any]] = []
    if annotate:
        names = [check.measure for check in checks]
        measures = [
            dict(zip(names, map(Check.as_written, checks, row), strict=True))
            for row in values.tolist()
        ]
    return Verdicts(rejects=judge(values, checks), measures=measures)
