"""Rule `where`: an expression over the record, as `metadata.scores.perplexity < 300`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llmtools.data.batch import Batch
from llmtools.data.rules.expression import Unanswered, parse_expression
from llmtools.data.rules.rule import Check, Reject, Rule, Verdicts
from llmtools.data.rules.score_settings import WhereSettings
from llmtools.data.rules.settings import Conventions

# Fields that a warning names.
SHOWN = 3


class WhereRule(Rule):
    """Drops documents for which the expression does not hold, or cannot be answered.

    It reads the record as it came in, whatever other rules did to its text.
    """

    def __init__(self, name: str, settings: WhereSettings, conventions: Conventions) -> None:
        assert settings.where is not None
        self.name = name
        self.record = asdict(settings)
        self._expression = parse_expression(settings.where)
        self._check = Check(rule=name, measure=settings.where, threshold="true")
        self.checks = (self._check,)
        self._documents = 0
        self._missing: Counter[str] = Counter()

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        rejects: list[Reject | None] = []
        measures: list[dict[str, Any]] = []
        for document in batch.documents:
            value = self._answer(document.fields)
            passes = value == "true"
            rejects.append(None if passes else Reject(check=self._check, value=value))
            if annotate:
                measures.append({self._expression.text: passes if value in _ANSWERS else value})
        self._documents += len(rejects)
        return Verdicts(rejects=rejects, measures=measures)

    def _answer(self, record: dict[str, Any]) -> str:
        """'true', 'false', or why there is no answer."""
        try:
            return _ANSWERS[not self._expression.holds(record)]
        except Unanswered as fault:
            if fault.found is None:
                self._missing[fault.field] += 1
                return f"no {fault.field}"
            return f"{fault.field} is {fault.found}"

    def doubt(self) -> str:
        """The field that stopped most documents, which is more likely misspelled than missing."""
        for field, count in self._missing.most_common(1):
            if count == self._documents:
                return f"--where: no document has the field {field}"
            named = ", ".join(f"{name} {n:,}" for name, n in self._missing.most_common(SHOWN))
            return (
                f"--where: {self._missing.total():,} of {self._documents:,} documents have no"
                f" answer, which is a no: the field is missing ({named})"
            )
        return ""

    def missing(self) -> Mapping[str, int]:
        return dict(self._missing)


_ANSWERS = ("true", "false")
