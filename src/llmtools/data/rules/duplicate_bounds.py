"""Which texts surely have fewer repeated n-grams than a limit (datatrove's duplicate n-grams).

datatrove compares the words of an n-gram without separators, so the text of all words joined is
looked at: the key of an n-gram is made of its first and last eight bytes and its length.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmtools.data.rules.seen_keys import clear, mixed, see
from llmtools.instructions import load_8, store_8
from llmtools.jit import inlined, kernel

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
Fractions = npt.NDArray[np.float64]

_FIRST, _LAST = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_LENGTH = np.uint64(0x165667B19E3779F9)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@kernel
def join(
    buffer: Bytes,
    starts: Integers,
    num_bytes: Counts,
    num_chars: Counts,
    joined: Bytes,
    keys: Hashes,
    ends: Integers,
) -> None:
    """Write words without what is between them, from byte 8 on, and look at it from their ends.

    keys: rows 0 and 1 get what an n-gram's key takes from where it starts and from where it ends;
    their difference in bytes is in it. ends: (2, words + 1), in characters and in bytes.
    """
    at = 8
    ends[0, 0], ends[1, 0] = 0, 8
    for i in range(starts.size):
        size = num_bytes[i]
        # Two for most words, as is decided here and not asked for each.
        store_8(joined, at, load_8(buffer, starts[i]))
        store_8(joined, at + 8, load_8(buffer, starts[i] + 8))
        for k in range(16, size, 8):
            store_8(joined, at + k, load_8(buffer, starts[i] + k))
        at += size
        ends[0, i + 1] = ends[0, i] + num_chars[i]
        ends[1, i + 1] = at
    for i in range(starts.size + 1):
        place = ends[1, i]
        length = np.uint64(place) * _LENGTH
        keys[0, i] = mixed(load_8(joined, place) * _FIRST) - length
        keys[1, i] = mixed(load_8(joined, place - 8) * _LAST) + length


@inlined
def _dup_bound(
    joined: Bytes,
    first_keys: Hashes,
    last_keys: Hashes,
    places: Integers,
    places_after: Integers,
    chars: Integers,
    chars_after: Integers,
    seen: Hashes,
    has_short: bool,
    shift: np.uint64,
) -> int:
    """The scan over repeated n-grams does not find more characters."""
    total = 0
    covered = 0
    for i in range(last_keys.size):
        key = first_keys[i] + last_keys[i]
        if has_short and places_after[i] - places[i] < 8:
            size = places_after[i] - places[i]
            start = load_8(joined, places[i]) & (_ALL >> np.uint64(64 - 8 * size))
            key = mixed(start * _FIRST + np.uint64(size))
        if see(seen, shift, key):
            total += chars_after[i] - max(chars[i], covered)
            covered = chars_after[i]
    return int(total)


@kernel
def judge_duplicates(
    joined: Bytes,
    keys: Hashes,
    chars: Integers,
    places: Integers,
    dup: Integers,
    limits: Fractions,
    text_chars: int,
    seen: Hashes,
    shift: np.uint64,
    out: Flags,
) -> None:
    """Which sizes of n-grams are within their limits in a text of `text_chars` characters.

    joined, keys: as `join` makes them. chars, places: (words + 1,), the rows of its `ends`. limits,
    out: (len(dup),). seen: room.
    """
    num_words = places.size - 1
    shortest = 8
    if dup.size > 0:
        least = dup[0]
        for n in dup:
            least = min(least, n)
        for i in range(num_words - least + 1):
            shortest = min(shortest, places[i + least] - places[i])
    for column in range(dup.size):
        clear(seen)
        n = dup[column]
        found = _dup_bound(
            joined,
            keys[0],
            keys[1, n : num_words + 1],
            places,
            places[n:],
            chars,
            chars[n:],
            seen,
            shortest < 8,
            shift,
        )
        out[column] = found / text_chars <= limits[column]
