"""Which tokens run in the next step.

Every step is one forward call: one token of each sequence that is decoding, and beside them as much
of the waiting prompts as the step's token budget holds, first come, first served. A sequence takes
its place when the cache holds all positions it may ever have, so none has to be thrown out later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from llmtools.engine.sequence import Sequence
from llmtools.errors import UsageError

DEFAULT_BATCH = 16
DEFAULT_STEP_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """max_batch: sequences that run at once. max_step_tokens: positions of one forward call.

    max_positions: positions that all running sequences may hold together.
    """

    max_batch: int = DEFAULT_BATCH
    max_step_tokens: int = DEFAULT_STEP_TOKENS
    max_positions: int

    def __post_init__(self) -> None:
        if min(self.max_batch, self.max_positions) < 1 or self.max_step_tokens < self.max_batch:
            raise UsageError(
                f"a batch of {self.max_batch} sequences, {self.max_step_tokens} tokens a step and"
                f" {self.max_positions} cached positions: each is at least 1, and a step holds at"
                " least one token of each sequence"
            )


class Scheduler:
    """Waiting and running sequences."""

    def __init__(self, limits: Limits, admit: Callable[[Sequence], None]) -> None:
        """admit: called when a sequence gets its place, to give it a cache."""
        self._limits = limits
        self._admit = admit
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_reserved = 0

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Free a sequence's place, or take it out of the queue."""
        if sequence in self.running:
            self.running.remove(sequence)
            self.num_reserved -= sequence.limit
            sequence.cache = None
        else:
            self.waiting.remove(sequence)

    def plan(self) -> list[tuple[Sequence, int]]:
        """The sequences of the next step and how many tokens each runs; empty when all is done."""
        while self.waiting and self._has_place(self.waiting[0]):
            sequence = self.waiting.popleft()
            self.num_reserved += sequence.limit
            self._admit(sequence)
            self.running.append(sequence)
        # Decoding sequences first: the budget left over goes to prompts, in order of arrival.
        budget = self._limits.max_step_tokens - sum(s.num_pending == 1 for s in self.running)
        parts = []
        for sequence in self.running:
            count = sequence.num_pending
            if count > 1:
                count = min(count, budget)
                budget -= count
            if count:
                parts.append((sequence, count))
        return parts

    def _has_place(self, sequence: Sequence) -> bool:
        return (
            len(self.running) < self._limits.max_batch
            and self.num_reserved + sequence.limit <= self._limits.max_positions
        )
