"""The thresholds of the rules that judge by scores; see settings.py."""

# The defaults are immutable: `flag` only wraps dataclasses.field.

from __future__ import annotations

from dataclasses import dataclass

from llmtools.data.rules.expression import parse_expression
from llmtools.data.rules.settings import flag
from llmtools.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class WhereSettings:
    """A question to the record."""

    where: str | None = flag(None, "keep records for which this holds, as 'metadata.n >= 3'.")

    def faults(self) -> list[str]:
        """Where the expression is wrong."""
        if self.where is None:
            return ["rule where needs an expression: give one with --where"]
        try:
            parse_expression(self.where)
        except UsageError as fault:
            return [str(fault)]
        return []
