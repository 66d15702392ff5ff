"""A growing set of 128-bit digests in numpy: which keys of a stream are new, and whose the others.

Open addressing with linear probing over whole batches: all keys of a batch look at their slot at
once, those that found neither themselves nor an empty slot look at the next. No numba, whose import
costs more than deduplicating 30 MB. Memory: 16 bytes a slot (24 with values) and between 1.3 and
2.7 slots a distinct key, 4 for the moment of growing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from llmtools.errors import ResourceError

Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

MAX_LOAD = 0.75
GROWTH = 2
# A slot is chosen by 32 bits of the key: beyond so many slots they would no longer spread.
MAX_SLOTS = 1 << 32
_HALF = np.uint64(32)


class KeySet:
    """Digests seen so far; with `has_values`, each with the value it first came with."""

    def __init__(self, *, has_values: bool = False, num_slots: int = 1 << 12) -> None:
        self._has_values = has_values
        self.size = 0
        self._make(num_slots)

    def _make(self, num_slots: int) -> None:
        self._high = np.zeros(num_slots, np.uint64)
        self._low = np.zeros(num_slots, np.uint64)
        self._values = np.zeros(num_slots if self._has_values else 0, np.uint64)

    def add(self, keys: Words, values: Words | None = None) -> tuple[npt.NDArray[np.bool_], Words]:
        """Add keys in order.

        keys: (n, 2) uint64, evenly spread, as xxh3 digests are. values: (n,) where the set has
        values. Returns (is_new, first values): whether a key was in neither the set nor the rows
        above it, (n,) bool, and the value that each key first came with (its own, where new).
        Raises ResourceError beyond 3 billion keys.
        """
        # A slot whose low word is zero is empty; a key with such a word is taken for its neighbour.
        high, low = keys[:, 0].copy(), np.maximum(keys[:, 1], np.uint64(1))
        while self.size + len(keys) > MAX_LOAD * len(self._low):
            self._grow()
        slots, is_new = self._insert(high, low)
        self.size += int(is_new.sum())
        if values is None:
            return is_new, np.empty(0, np.uint64)
        self._values[slots[is_new]] = values[is_new]
        return is_new, self._values[slots]

    def _insert(self, high: Words, low: Words) -> tuple[Places, npt.NDArray[np.bool_]]:
        """Each key's slot and whether the key was put there now."""
        num_slots = len(self._low)
        slots = ((high >> _HALF) * np.uint64(num_slots) >> _HALF).astype(np.int64)
        is_new = np.zeros(len(high), np.bool_)
        left = np.arange(len(high))
        at = slots
        while left.size:
            rows = left[self._low[at] == 0]
            if rows.size:
                # Of several rows with one free slot numpy keeps the last written: the first row.
                rows = rows[::-1]
                claimed = slots[rows]
                self._high[claimed] = rows
                won = rows[self._high[claimed] == rows.view(np.uint64)]
                claimed = slots[won]
                self._high[claimed] = high[won]
                self._low[claimed] = low[won]
                is_new[won] = True
            left = left[(self._low[at] != low[left]) | (self._high[at] != high[left])]
            at = slots[left] + 1
            at[at == num_slots] = 0
            slots[left] = at
        return slots, is_new

    def _grow(self) -> None:
        num_slots = GROWTH * len(self._low)
        if num_slots > MAX_SLOTS:
            raise ResourceError(
                f"{self.size:,} distinct keys are more than one process can hold; split the input"
                " by the first letters of the key's text, or use llm dedup --method minhash"
            )
        high, low, values = self._high, self._low, self._values
        used = np.flatnonzero(low)
        self._make(num_slots)
        for start in range(0, used.size, 1 << 16):
            rows = used[start : start + (1 << 16)]
            slots, _ = self._insert(high[rows], low[rows])
            if self._has_values:
                self._values[slots] = values[rows]


def new_keys_reference(keys: Iterable[tuple[int, int]]) -> Iterator[int]:
    """For each key the row at which it first came, with a plain dictionary."""
    seen: dict[tuple[int, int], int] = {}
    for row, key in enumerate(keys):
        yield seen.setdefault(key, row)
