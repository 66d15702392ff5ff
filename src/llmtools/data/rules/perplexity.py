"""Rule `perplexity`: how well an n-gram language model foresees a document's words.

Buckets are cc_net's: `head` up to the model's 30th percentile, `tail` above the 60th, `middle`
between. The percentiles are those of the documents that the model was measured on when trained.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmtools.data.batch import Batch
from llmtools.data.rules.rule import Check, Reject, Rule, Verdicts
from llmtools.data.rules.score_settings import BUCKETS, PerplexitySettings
from llmtools.data.rules.settings import Conventions
from llmtools.data.scorer import load_ngram_scorer
from llmtools.errors import InputError
from llmtools.formats.manifest import digest_file

NO_WORDS = "no words"


class PerplexityRule(Rule):
    """Drops what lies above a limit or outside some buckets; a text without words lies in none."""

    def __init__(self, name: str, settings: PerplexitySettings, conventions: Conventions) -> None:
        assert settings.perplexity is not None
        self.name = name
        path = Path(settings.perplexity)
        self._scorer = load_ngram_scorer(settings.perplexity, "--perplexity")
        self._has_limit = settings.max_perplexity < math.inf
        self.record = asdict(settings) | {
            "perplexity": {"path": str(path), "digest": digest_file(path)[1]},
            "max_perplexity": settings.max_perplexity if self._has_limit else None,
        }
        self._kept = settings.buckets
        self._cutoffs: tuple[float, float] | None = None
        if self._kept:
            try:
                model = self._scorer.model
                head, tail = settings.percentile_head, settings.percentile_tail
                self._cutoffs = model.cutoff(head), model.cutoff(tail)
            except InputError as fault:
                raise InputError(f"--perplexity-bucket: {path}: {fault}") from fault
        self._above = Check(
            rule=name,
            measure="perplexity",
            threshold=float(settings.max_perplexity),
        )
        self._other = Check(rule=name, measure="perplexity_bucket", threshold=",".join(self._kept))
        self.checks = tuple(
            check
            for check, is_on in (
                (self._above, self._has_limit),
                (self._other, bool(self._kept)),
            )
            if is_on
        )

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        values = self._scorer.score(batch)[self._scorer.name].tolist()
        measures: list[dict[str, Any]] = []
        if annotate:
            for value in values:
                found: dict[str, Any] = {"perplexity": value if math.isfinite(value) else None}
                if self._cutoffs is not None:
                    found["perplexity_bucket"] = self._bucket(value)
                measures.append(found)
        return Verdicts(rejects=[self._judge(value) for value in values], measures=measures)

    def _bucket(self, value: float) -> str | None:
        """None for a document without words."""
        assert self._cutoffs is not None
        if math.isnan(value):
            return None
        return BUCKETS[sum(value > cutoff for cutoff in self._cutoffs)]

    def _judge(self, value: float) -> Reject | None:
        if math.isnan(value):
            return Reject(check=self.checks[0], value=NO_WORDS)
        if value > float(self._above.threshold):
            return Reject(check=self._above, value=value)
        if self._kept:
            bucket = self._bucket(value)
            if bucket not in self._kept:
                return Reject(check=self._other, value=bucket or NO_WORDS)
        return None
