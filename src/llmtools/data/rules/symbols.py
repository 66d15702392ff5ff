"""Rule `symbols`: '#' per word, and ellipses ('...' and '…') per word."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from llmtools.data.batch import Batch
from llmtools.data.rules.counters import counters
from llmtools.data.rules.rule import Check, Rule, Verdicts, verdicts
from llmtools.data.rules.settings import Conventions, SymbolSettings


class SymbolRule(Rule):
    """Drops what has many signs that stand for something else than text."""

    def __init__(self, name: str, settings: SymbolSettings, conventions: Conventions) -> None:
        self.name = name
        self.record = asdict(settings)
        self._conventions = conventions
        self.checks = tuple(
            Check(rule=name, measure=measure, threshold=settings.max_symbol_word_ratio)
            for measure in ("hash_word_ratio", "ellipsis_word_ratio")
        )

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        found = counters(batch, self._conventions)
        signs = np.stack([found["hashes"], found["ellipses"]], axis=1)
        # A text without words has ratio 0.
        has_words = found["words"][:, None] > 0
        ratios = np.where(has_words, signs / np.maximum(found["words"], 1)[:, None], 0.0)
        return verdicts(ratios, self.checks, annotate=annotate)
