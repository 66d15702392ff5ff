"""Quality rules: what is measured in a document, and the thresholds it must keep.

    length      words of a document                                 50 ... 100,000
    repetition  see repetition.py                                   Gopher's table A1
    symbols     '#' per word, ellipses ('...' and '…') per word     at most 0.1 each

Thresholds are Gopher's (Rae et al. 2021), as in datatrove 0.10. Words are what stands between white
space; for `length` a word counts when it holds a letter or a digit, so that rules and bullets do
not; for `symbols` every word counts, and a text without words has ratio 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.data.repetition import BLOCK_MEASURES, repetition
from llmtools.errors import UsageError, did_you_mean

Values = npt.NDArray[np.float64]
NGramLimits = tuple[tuple[int, float], ...]

RULES = ("length", "repetition", "symbols")
# The settings of each rule.
THRESHOLDS = {
    "length": ("min_doc_words", "max_doc_words"),
    "repetition": (
        "dup_para_frac",
        "dup_para_char_frac",
        "dup_line_frac",
        "dup_line_char_frac",
        "top_n_grams",
        "dup_n_grams",
    ),
    "symbols": ("max_symbol_word_ratio",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QualitySettings:
    """Which rules apply, in which order, and their thresholds; n-gram limits are (n, fraction)."""

    rules: tuple[str, ...] = RULES
    min_doc_words: int = 50
    max_doc_words: int = 100_000
    dup_para_frac: float = 0.3
    dup_para_char_frac: float = 0.2
    dup_line_frac: float = 0.3
    dup_line_char_frac: float = 0.2
    top_n_grams: NGramLimits = ((2, 0.2), (3, 0.18), (4, 0.16))
    dup_n_grams: NGramLimits = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))
    max_symbol_word_ratio: float = 0.1

    def unused(self) -> list[str]:
        """Thresholds that were changed although their rule is not applied."""
        defaults = type(self).__dataclass_fields__
        return [
            name
            for rule, names in THRESHOLDS.items()
            if rule not in self.rules
            for name in names
            if getattr(self, name) != defaults[name].default
        ]

    def __post_init__(self) -> None:
        faults = [
            f"no rule {name!r}{did_you_mean(name, RULES)} (rules: {', '.join(RULES)})"
            for name in self.rules
            if name not in RULES
        ]
        if not self.rules:
            faults.append(f"no rules given (rules: {', '.join(RULES)})")
        if self.min_doc_words > self.max_doc_words:
            faults.append(
                f"min_doc_words {self.min_doc_words} is above max_doc_words {self.max_doc_words}"
            )
        faults += [
            f"{check.measure} must be a number from 0, not {check.threshold}"
            for check in ([] if faults else checks(self))
            if not check.threshold >= 0
        ]
        faults += [
            f"{label}_n_grams {n}:{limit}: n is a number of words from 2 to 100"
            for label, limits in (("top", self.top_n_grams), ("dup", self.dup_n_grams))
            for n, limit in limits
            if not 2 <= n <= 100
        ]
        if faults:
            raise UsageError("; ".join(faults))


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One threshold: a document whose measure lies beyond it is dropped."""

    rule: str
    measure: str
    threshold: float
    is_minimum: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Why a document was dropped: the first check it failed."""

    check: Check
    value: float

    def as_dict(self) -> dict[str, float | str]:
        return {
            "rule": self.check.rule,
            "measure": self.check.measure,
            "value": _as_written(self.value, self.check),
            "threshold": self.check.threshold,
        }


def checks(settings: QualitySettings) -> list[Check]:
    """All thresholds, rule by rule: the columns of `measure`."""
    found: list[Check] = []
    for rule in settings.rules:
        if rule == "length":
            found += [
                Check(
                    rule=rule,
                    measure="doc_words",
                    threshold=settings.min_doc_words,
                    is_minimum=True,
                ),
                Check(rule=rule, measure="doc_words", threshold=settings.max_doc_words),
            ]
        elif rule == "repetition":
            limits = {name: getattr(settings, name) for name in BLOCK_MEASURES}
            limits |= {f"top_{n}_gram": limit for n, limit in settings.top_n_grams}
            limits |= {f"dup_{n}_grams": limit for n, limit in settings.dup_n_grams}
            found += [Check(rule=rule, measure=k, threshold=v) for k, v in limits.items()]
        else:
            found += [
                Check(rule=rule, measure=name, threshold=settings.max_symbol_word_ratio)
                for name in ("hash_word_ratio", "ellipsis_word_ratio")
            ]
    return found


def measure(batch: Batch, settings: QualitySettings) -> Values:
    """The measured values of each document, (D, number of checks)."""
    columns: list[Values] = []
    for rule in settings.rules:
        if rule == "length":
            words = [float(count_words(document.text)) for document in batch.documents]
            columns.append(np.array([words, words]).T)
        elif rule == "repetition":
            top = tuple(n for n, _ in settings.top_n_grams)
            dup = tuple(n for n, _ in settings.dup_n_grams)
            columns.append(repetition(batch, top, dup))
        else:
            columns.append(np.array([symbol_ratios(d.text) for d in batch.documents]))
    return np.concatenate(columns, axis=1)


def judge(values: Values, applied: list[Check]) -> list[Reject | None]:
    """The first failed check of each row of `values`, or None; a value at the threshold passes."""
    thresholds = np.array([check.threshold for check in applied])
    signs = np.array([-1.0 if check.is_minimum else 1.0 for check in applied])
    fails = values * signs > thresholds * signs
    first = fails.argmax(axis=1)
    return [
        Reject(check=applied[column], value=float(values[row, column]))
        if fails[row, column]
        else None
        for row, column in enumerate(first.tolist())
    ]


def measures(row: Values, applied: list[Check]) -> dict[str, float]:
    """One document's values by name."""
    return {c.measure: _as_written(float(v), c) for c, v in zip(applied, row, strict=True)}


def _as_written(value: float, check: Check) -> float:
    """A count is written as a whole number, a fraction as a float."""
    return int(value) if isinstance(check.threshold, int) else value


def count_words(text: str) -> int:
    """Words that hold a letter or a digit."""
    return sum(1 for word in text.split() if word.isalnum() or any(map(str.isalnum, word)))


def symbol_ratios(text: str) -> tuple[float, float]:
    """'#' characters and ellipses, each per word."""
    words = len(text.split())
    if words == 0:
        return 0.0, 0.0
    return text.count("#") / words, (text.count("...") + text.count("…")) / words
