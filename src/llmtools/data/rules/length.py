"""Rule `length`: the number of words that hold a letter or a digit."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from llmtools.data.batch import Batch
from llmtools.data.rules.counters import counters
from llmtools.data.rules.rule import Check, Rule, Verdicts, verdicts
from llmtools.data.rules.settings import Conventions, LengthSettings


class LengthRule(Rule):
    """Drops what is too short or too long."""

    def __init__(self, name: str, settings: LengthSettings, conventions: Conventions) -> None:
        self.name = name
        self.record = asdict(settings)
        self._conventions = conventions
        self.checks = (
            Check(
                rule=name, measure="doc_words", threshold=settings.min_doc_words, is_minimum=True
            ),
            Check(rule=name, measure="doc_words", threshold=settings.max_doc_words),
        )

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        words = counters(batch, self._conventions)["alnum_words"].astype(np.float64)
        return verdicts(np.stack([words, words], axis=1), self.checks, annotate=annotate)
