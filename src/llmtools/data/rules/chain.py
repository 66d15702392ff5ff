"""Rules one after another over a batch, each on what the earlier ones left, with their costs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmtools.data.batch import Batch
from llmtools.data.rules.rule import Check, Reject, Rule

# Where fewer documents of a batch are left, the next rule gets a batch of these alone.
MOST_STAY = 0.8


@dataclass(slots=True)
class RuleStats:
    """What one rule saw, dropped and cost; bytes are those of texts as the rule was given them."""

    documents: int = 0
    bytes: int = 0
    dropped: int = 0
    dropped_bytes: int = 0
    edited: int = 0
    edited_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch.

    rejects:  by row, the documents that some rule drops.
    texts:    by row, the changed text of a document that stays.
    measures: [D] by rule and measure, when asked to annotate, else empty.
    metadata: [D] fields of the documents' metadata, when asked to annotate, else empty.
    """

    rejects: dict[int, Reject] = field(default_factory=dict)
    texts: dict[int, bytes] = field(default_factory=dict)
    measures: list[dict[str, Any]] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)


class Chain:
    """The rules of one run, and what they did so far."""

    def __init__(self, rules: Sequence[Rule], *, annotate: bool = False) -> None:
        self.rules = rules
        self.annotate = annotate
        self.stats = {rule.name: RuleStats() for rule in rules}
        self.failed: Counter[Check] = Counter()

    def run(self, batch: Batch) -> Outcome:
        """Judge a batch. To annotate, every rule sees every document; else those still there."""
        outcome = Outcome()
        if self.annotate:
            outcome.measures.extend({} for _ in batch.documents)
            outcome.metadata.extend({} for _ in batch.documents)
        rows = list(range(len(batch.documents)))
        current = batch
        for rule in self.rules:
            if all(row in outcome.rejects for row in rows) and not self.annotate:
                break
            current, rows = self._apply(rule, current, rows, outcome)
        for reject in outcome.rejects.values():
            self.failed[reject.check] += 1
        for row in outcome.rejects:
            outcome.texts.pop(row, None)
        return outcome

    def _apply(
        self, rule: Rule, batch: Batch, rows: list[int], outcome: Outcome
    ) -> tuple[Batch, list[int]]:
        """One rule over a batch and what each of its documents is; returns both for the next rule.

        Documents that an earlier rule has dropped may still be among them: what rules derive from
        the texts is kept with a batch, and leaving out a few documents would cost all of it.
        """
        start = time.perf_counter()
        gone = set() if self.annotate else set(outcome.rejects)
        found = rule.apply(batch, annotate=self.annotate)
        lengths = np.diff(batch.offsets).tolist()
        stats = self.stats[rule.name]
        judged = (
            [at for at, row in enumerate(rows) if row not in gone] if gone else range(len(rows))
        )
        stays = [at for at in judged if found.rejects[at] is None]
        stats.documents += len(judged)
        stats.bytes += sum([lengths[at] for at in judged])
        if len(stays) < len(judged):
            for at in judged:
                reject = found.rejects[at]
                if reject is not None:
                    stats.dropped += 1
                    stats.dropped_bytes += lengths[at]
                    outcome.rejects.setdefault(rows[at], reject)
        texts = {at: text for at, text in found.texts.items() if rows[at] not in gone}
        for at, text in texts.items():
            stats.edited += 1
            stats.edited_bytes += lengths[at] - len(text)
            outcome.texts[rows[at]] = text
        for at, measured in enumerate(found.measures):
            outcome.measures[rows[at]][rule.name] = measured
        for at, fields in enumerate(found.metadata):
            outcome.metadata[rows[at]].update(fields)
        if self.annotate:
            stays = list(range(len(rows)))
        keeps_all = len(stays) == len(rows) or (
            bool(batch.memo) and len(stays) >= MOST_STAY * len(rows)
        )
        if texts or not keeps_all:
            batch = batch.take(stays, texts)
            rows = [rows[at] for at in stays]
        stats.seconds += time.perf_counter() - start
        return batch, rows
