"""A hash table for kernels that counts what occurs in one text after another.

Three arrays: keys, rounds and counts. A slot belongs to the text whose round it has; those of
earlier rounds are free, so that nothing is cleared between texts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmtools.jit import inlined, kernel

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int32]
Integers = npt.NDArray[np.int64]
Table = tuple[Hashes, Counts, Counts]

_HALF = np.uint64(32)


@inlined
def slot_of(keys: Hashes, rounds: Counts, mask: int, current: int, key: np.uint64) -> int:
    """Where `key` is, or would be put, in the hash table; slots of earlier rounds are free."""
    at = np.int64((key ^ (key >> _HALF)) & np.uint64(mask))
    while rounds[at] == current and keys[at] != key:
        at = (at + 1) & mask
    return int(at)


@inlined
def small_mask(table: Table, words: int) -> int:
    """A small part of the table for a small text, so that it stays in the cache.

    An eighth full at most: on fuller ones the processor guesses wrong whether a slot is free.
    """
    slots = 64
    while slots < 8 * (words + 1) and slots < table[0].size:
        slots *= 2
    return slots - 1


@kernel
def doubled(table: Table, mask: int, current: int) -> tuple[Table, int]:
    """The same entries in a table of twice the slots, and its mask."""
    keys, rounds, counts = table
    size = 2 * (mask + 1)
    wide = (np.empty(size, np.uint64), np.zeros(size, np.int32), np.zeros(size, np.int32))
    for at in range(mask + 1):
        if rounds[at] == current:
            to = slot_of(wide[0], wide[1], size - 1, current, keys[at])
            wide[0][to], wide[1][to], wide[2][to] = keys[at], current, counts[at]
    return wide, size - 1


@kernel
def count_some(
    keys: Hashes,
    rounds: Counts,
    counts: Counts,
    mask: int,
    current: int,
    grams: Hashes,
    first: int,
    last: int,
) -> tuple[int, int]:
    """Count some hashes; returns how many are new, and the highest count."""
    used = 0
    best = 0
    for i in range(first, last):
        at = slot_of(keys, rounds, mask, current, grams[i])
        if rounds[at] == current:
            counts[at] += 1
            best = max(best, counts[at])
        else:
            keys[at], rounds[at], counts[at] = grams[i], current, 1
            used += 1
    return used, max(best, 1)


@kernel
def skip_some(
    keys: Hashes,
    rounds: Counts,
    mask: int,
    current: int,
    grams: Hashes,
    first: int,
    last: int,
    n: int,
    ends: Integers,
) -> tuple[int, int, int]:
    """Go from n-gram to n-gram, over those that were there; returns where it stops.

    Then come how many were new, and the characters of the others.
    """
    used = 0
    chars = 0
    i = first
    while i < last:
        at = slot_of(keys, rounds, mask, current, grams[i])
        if rounds[at] == current:
            chars += ends[i + n] - ends[i]
            i += n
        else:
            keys[at], rounds[at] = grams[i], current
            used += 1
            i += 1
    return i, used, chars


@kernel
def count_all(
    table: Table, mask: int, current: int, grams: Hashes, n: int
) -> tuple[Table, int, int]:
    """Count the first n hashes in the table; returns it, its mask, and the highest count."""
    used = 0
    best = 0
    i = 0
    while i < n:
        # Arrays in a tuple are counted references: the loops over hashes take them one by one, and
        # as many hashes as there is surely room for.
        room = (mask + 1) // 2 - used
        if room <= (mask + 1) // 8:
            table, mask = doubled(table, mask, current)
            continue
        stop = min(n, i + room)
        new, most = count_some(table[0], table[1], table[2], mask, current, grams, i, stop)
        used += new
        best = max(best, most)
        i = stop
    return table, mask, best
