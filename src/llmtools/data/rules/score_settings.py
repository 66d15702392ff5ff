"""The thresholds of the rules that judge by scores; see settings.py."""

# The defaults are immutable: `flag` only wraps dataclasses.field.

from __future__ import annotations

import math
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


BUCKETS = ("head", "middle", "tail")


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexitySettings:
    """cc_net's: how an n-gram language model finds a document, and which third of them it is in."""

    perplexity: str | None = flag(
        None, "an n-gram language model, .safetensors or .arpa.", is_file=True
    )
    max_perplexity: float = flag(math.inf, "perplexity at most.")
    perplexity_bucket: str | None = flag(None, "keep these: head, middle, tail.")
    percentile_head: float = flag(30.0, "percentile of the model at which the head ends.")
    percentile_tail: float = flag(60.0, "percentile of the model at which the tail begins.")

    def faults(self) -> list[str]:
        """What is wrong with the values together."""
        found = []
        if self.perplexity is None:
            found.append("rule perplexity needs a language model: give one with --perplexity FILE")
        if self.max_perplexity == math.inf and not self.buckets:
            found.append("rule perplexity needs --max-perplexity or --perplexity-bucket")
        unknown = [name for name in self.buckets if name not in BUCKETS]
        if unknown:
            found.append(f"no perplexity_bucket {unknown[0]!r} (buckets: {', '.join(BUCKETS)})")
        if not self.percentile_head <= self.percentile_tail <= 100:
            found.append(
                f"percentile_head {self.percentile_head:g} and percentile_tail"
                f" {self.percentile_tail:g} must rise and be at most 100"
            )
        return found

    @property
    def buckets(self) -> tuple[str, ...]:
        """Those of perplexity_bucket."""
        given = (self.perplexity_bucket or "").split(",")
        return tuple(name.strip() for name in given if name.strip())
