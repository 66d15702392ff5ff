"""Which texts surely repeat less than the limits of the rule `repetition` (datatrove's dialect).

Most texts are far from every limit, and to know that takes no exact count. Of each paragraph, line
and n-gram a short key is made; those with equal contents have equal keys, so counting keys finds at
least the repetitions that there are. Where even these are within a limit, so is the text.

The key of a duplicate n-gram, whose words datatrove compares without separators, is made of its
first and last eight bytes and its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.data.instructions import bits_in, count_ones, load_8, store_8, trailing_zeros
from llmtools.data.rules.words import WordTable
from llmtools.jit import inlined, kernel

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
Fractions = npt.NDArray[np.float64]

# Columns of the limits: four of paragraphs and lines, then the n-grams.
_PARAGRAPHS, _LINES, _GRAMS = 1, 3, 5
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_FIRST, _LAST = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_LENGTH = np.uint64(0x165667B19E3779F9)
_SHIFT = np.uint64(31)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_ONE, _NONE = np.uint64(1), np.uint64(0)
_SIX, _LOW = np.uint64(6), np.uint64(63)
# The least room: a unit of it is 64 bits of what was seen, and two counts, for two words at most.
_LEAST_ROOM = 64


def within_limits(
    batch: Batch,
    words: WordTable,
    top: Sequence[int],
    dup: Sequence[int],
    limits: Sequence[float],
) -> Flags:
    """Which fractions of a document are not beyond their limits: columns as those of `repetition`.

    (D, 5 + len(top) + len(dup)); False where that is not sure. top, dup: the sizes of n-grams.
    """
    most = max(int(words.counts.max(initial=0)), _LEAST_ROOM)
    longest = int(np.diff(batch.offsets).max(initial=0))
    room = 1 << (most - 1).bit_length()
    out = np.zeros((len(batch.documents), len(limits)), np.bool_)
    _judge(
        batch.buffer,
        batch.offsets,
        words.offsets,
        words.starts,
        words.num_bytes,
        words.num_chars,
        words.hashes,
        np.array(top, np.int64),
        np.array(dup, np.int64),
        np.array(limits, np.float64),
        np.empty(room, np.uint64),
        np.empty(2 * room, np.int32),
        np.empty(longest + 32, np.uint8),
        np.empty((3, most + 16), np.uint64),
        np.empty((2, most + 1), np.int64),
        out,
    )
    return out


@inlined
def _mixed(key: np.uint64) -> np.uint64:
    x = (key ^ (key >> _SHIFT)) * _MIX
    return np.uint64(x ^ (x >> _SHIFT))


@inlined
def _clear(numbers: Any) -> None:
    # A slice that is assigned to makes numba import a tenth of itself for its errors, for 20 ms.
    for i in range(numbers.size):
        numbers[i] = 0


@inlined
def _see(seen: Hashes, shift: np.uint64, key: np.uint64) -> bool:
    """Whether a key, or others with the same two bits of a word, was there before; now it is."""
    # An unsigned index is not asked whether it counts from the end.
    at = key >> shift
    own = (_ONE << (key & _LOW)) | (_ONE << ((key >> _SIX) & _LOW))
    bits = seen[at]
    seen[at] = bits | own
    return bool(bits & own == own)


@inlined
def _block_key(buffer: Bytes, start: int, stop: int) -> np.uint64:
    """The key of a paragraph or a line."""
    size = stop - start
    if size >= 8:
        key = load_8(buffer, start) * _FIRST + load_8(buffer, stop - 8) * _LAST
    elif size > 0:
        key = (load_8(buffer, start) & (_ALL >> np.uint64(64 - 8 * size))) * _FIRST
    else:
        key = _NONE
    return np.uint64(key + np.uint64(size) * _LENGTH)


@kernel
def _judge_blocks(
    buffer: Bytes,
    start: int,
    stop: int,
    first: int,
    last: int,
    limits: Fractions,
    seen: Hashes,
    shift: np.uint64,
) -> tuple[int, bool]:
    """The characters of a text, and whether its paragraphs and lines repeat too little to matter.

    Bytes first to last are the text without white space at its ends, as paragraphs are cut.
    """
    lines, line_copies, line_bytes, line_begin = 1, 0, 0, start
    parts, part_copies, part_bytes, part_begin = 1, 0, 0, first
    run_begin, run_end = -1, -1
    continued = 0
    block = start
    while block <= stop:
        feeds = bits_in(buffer, block, 10, 10)
        inner = bits_in(buffer, block, 0x80, 0xBF)
        if stop - block < 64:
            end = _ONE << np.uint64(stop - block)
            inner &= end - _ONE
            feeds = (feeds & (end - _ONE)) | end
        continued += count_ones(inner)
        while feeds != _NONE:
            i = block + trailing_zeros(feeds)
            feeds &= feeds - _ONE
            if i == run_end and i < stop:
                run_end += 1
                continue
            # A run of line feeds is over: it ends a line, and a paragraph where it is longer.
            if run_begin >= 0:
                lines += 1
                if _see(seen, shift, _mixed(_block_key(buffer, line_begin, run_begin))):
                    line_copies += 1
                    line_bytes += run_begin - line_begin
                line_begin = run_end
                if run_end - run_begin > 1 and first < run_begin < last:
                    parts += 1
                    if _see(seen, shift, _mixed(_block_key(buffer, part_begin, run_begin) + _ONE)):
                        part_copies += 1
                        part_bytes += run_begin - part_begin
                    part_begin = run_end
            run_begin, run_end = i, i + 1
        block += 64
    if _see(seen, shift, _mixed(_block_key(buffer, line_begin, stop))):
        line_copies += 1
        line_bytes += stop - line_begin
    if _see(seen, shift, _mixed(_block_key(buffer, part_begin, last) + _ONE)):
        part_copies += 1
        part_bytes += last - part_begin
    chars = stop - start - continued
    is_within = (
        line_copies / lines <= limits[_LINES]
        and line_bytes / chars <= limits[_LINES + 1]
        and part_copies / parts <= limits[_PARAGRAPHS]
        and part_bytes / chars <= limits[_PARAGRAPHS + 1]
    )
    return int(chars), bool(is_within)


@kernel
def _join(
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
        keys[0, i] = _mixed(load_8(joined, place) * _FIRST) - length
        keys[1, i] = _mixed(load_8(joined, place - 8) * _LAST) + length


@inlined
def _top_bound(
    grams: Hashes,
    added: Hashes,
    n: int,
    chars: Integers,
    chars_after: Integers,
    seen: Hashes,
    counts: Counts,
    shift: np.uint64,
) -> tuple[int, int]:
    """Lengthen n-grams by a word, to n; none times its occurrences has more characters.

    The second number is one that none occurs more often than.
    """
    # Where none comes twice, it is the first that counts.
    count = 1
    most = chars_after[0] - chars[0] + n - 1 if added.size > 0 else 0
    for i in range(added.size):
        key = (grams[i] ^ (grams[i] >> _SHIFT)) * _MIX + added[i]
        grams[i] = key
        if _see(seen, shift, key):
            at = key >> (shift - _ONE)
            counts[at] += 1
            count = max(count, counts[at] + 1)
            most = max(most, (counts[at] + 1) * (chars_after[i] - chars[i] + n - 1))
    return int(most), int(count)


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
            key = _mixed(start * _FIRST + np.uint64(size))
        if _see(seen, shift, key):
            total += chars_after[i] - max(chars[i], covered)
            covered = chars_after[i]
    return int(total)


@kernel
def _judge_top(
    own: Hashes,
    grams: Hashes,
    ends: Integers,
    top: Integers,
    limits: Fractions,
    chars: int,
    seen: Hashes,
    counts: Counts,
    shift: np.uint64,
    out: Flags,
) -> None:
    """The columns of the most frequent n-grams of one document, whose words are `own`."""
    length, times = 0, 0
    for column in range(top.size):
        n = top[column]
        if n > length > 0:
            # An n-gram is not more frequent than a shorter one in it.
            longest = 0
            for i in range(own.size - n + 1):
                longest = max(longest, ends[i + n] - ends[i])
            if times * (longest + n - 1) / chars <= limits[_GRAMS + column]:
                out[_GRAMS + column] = True
                continue
        else:
            for i in range(own.size):
                grams[i] = own[i]
            length = 1
        while length < n - 1:
            for i in range(own.size - length):
                grams[i] = (grams[i] ^ (grams[i] >> _SHIFT)) * _MIX + own[length + i]
            length += 1
        if n == 1:
            _clear(grams[: own.size])
        _clear(seen)
        _clear(counts)
        found, times = _top_bound(grams, own[n - 1 :], n, ends, ends[n:], seen, counts, shift)
        length = n
        out[_GRAMS + column] = found / chars <= limits[_GRAMS + column]


@kernel
def _judge(
    buffer: Bytes,
    offsets: Integers,
    word_offsets: Integers,
    starts: Integers,
    num_bytes: Counts,
    num_chars: Counts,
    hashes: Hashes,
    top: Integers,
    dup: Integers,
    limits: Fractions,
    seen: Hashes,
    counts: Counts,
    joined: Bytes,
    keys: Hashes,
    ends: Integers,
    out: Flags,
) -> None:
    for d in range(offsets.size - 1):
        first, last = word_offsets[d], word_offsets[d + 1]
        num_words = last - first
        if num_words == 0:
            continue
        room, bits = _LEAST_ROOM, np.uint64(6)
        while 2 * room < num_words:
            room *= 2
            bits += _ONE
        some_seen, seen_shift = seen[:room], np.uint64(64) - bits
        some_counts = counts[: 2 * room]
        _clear(some_seen)
        chars, is_within = _judge_blocks(
            buffer,
            offsets[d],
            offsets[d + 1],
            starts[first],
            starts[last - 1] + num_bytes[last - 1],
            limits,
            seen,
            seen_shift,
        )
        for column in range(_GRAMS):
            out[d, column] = is_within
        own = hashes[first:last]
        _join(
            buffer,
            starts[first:last],
            num_bytes[first:last],
            num_chars[first:last],
            joined,
            keys,
            ends,
        )
        _judge_top(
            own, keys[2], ends[0], top, limits, chars, some_seen, some_counts, seen_shift, out[d]
        )
        shortest = 8
        if dup.size > 0:
            least = dup[0]
            for n in dup:
                least = min(least, n)
            for i in range(num_words - least + 1):
                shortest = min(shortest, ends[1, i + least] - ends[1, i])
        has_short = shortest < 8
        for column in range(dup.size):
            _clear(some_seen)
            n = dup[column]
            found = _dup_bound(
                joined,
                keys[0],
                keys[1, n : num_words + 1],
                ends[1],
                ends[1, n:],
                ends[0],
                ends[0, n:],
                some_seen,
                has_short,
                seen_shift,
            )
            at = _GRAMS + top.size + column
            out[d, at] = found / chars <= limits[at]
