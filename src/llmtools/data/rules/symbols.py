"""Rule `symbols`: '#' per word, and ellipses ('...' and '…') per word."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from llmtools.data.batch import Batch
from llmtools.data.rules.rule import Check, Rule, Verdicts, verdicts
from llmtools.data.rules.settings import Conventions, SymbolSettings


class SymbolRule(Rule):
    """Drops what has many signs that stand for something else than text."""

    def __init__(self, name: str, settings: SymbolSettings, conventions: Conventions) -> None:
        self.name = name
        self.record = asdict(settings)
        self.checks = tuple(
            Check(rule=name, measure=measure, threshold=settings.max_symbol_word_ratio)
            for measure in ("hash_word_ratio", "ellipsis_word_ratio")
        )

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        values = np.array([symbol_ratios(document.text) for document in batch.documents])
        return verdicts(values, self.checks, annotate=annotate)


def symbol_ratios(text: str) -> tuple[float, float]:
    """'#' characters and ellipses, each per word."""
    words = len(text.split())
    if words == 0:
        return 0.0, 0.0
    return text.count("#") / words, (text.count("...") + text.count("…")) / words
