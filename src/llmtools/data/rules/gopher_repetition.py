"""Rule `repetition`: Gopher's table A1 (see data/repetition.py)."""

from __future__ import annotations

from dataclasses import asdict

from llmtools.data.batch import Batch
from llmtools.data.repetition import BLOCK_MEASURES, repetition
from llmtools.data.rules.rule import Check, Rule, Verdicts, verdicts
from llmtools.data.rules.settings import Conventions, RepetitionSettings


class RepetitionRule(Rule):
    """Drops what repeats itself."""

    def __init__(self, name: str, settings: RepetitionSettings, conventions: Conventions) -> None:
        self.name = name
        self.record = asdict(settings)
        limits = {measure: getattr(settings, measure) for measure in BLOCK_MEASURES}
        limits |= {f"top_{n}_gram": limit for n, limit in settings.top_n_grams}
        limits |= {f"dup_{n}_grams": limit for n, limit in settings.dup_n_grams}
        self.checks = tuple(
            Check(rule=name, measure=measure, threshold=limit) for measure, limit in limits.items()
        )
        self._top = tuple(n for n, _ in settings.top_n_grams)
        self._dup = tuple(n for n, _ in settings.dup_n_grams)

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        values = repetition(batch, self._top, self._dup)
        return verdicts(values, self.checks, annotate=annotate)
