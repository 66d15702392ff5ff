"""Which texts surely repeat less than the limits of the rule `repetition` (datatrove's dialect).

Most texts are far from every limit, and to know that takes no exact count. Of each paragraph, line
and n-gram a short key is made; those with equal contents have equal keys, so counting keys finds at
least the repetitions that there are. Where even these are within a limit, so is the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.data.rules.duplicate_bounds import join, judge_duplicates
from llmtools.data.rules.seen_keys import clear, mixed, see
from llmtools.data.rules.words import WordTable
from llmtools.instructions import bits_in, count_ones, load_8, trailing_zeros
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
                if see(seen, shift, mixed(_block_key(buffer, line_begin, run_begin))):
                    line_copies += 1
                    line_bytes += run_begin - line_begin
                line_begin = run_end
                if run_end - run_begin > 1 and first < run_begin < last:
                    parts += 1
                    if see(seen, shift, mixed(_block_key(buffer, part_begin, run_begin) + _ONE)):
                        part_copies += 1
                        part_bytes += run_begin - part_begin
                    part_begin = run_end
            run_begin, run_end = i, i + 1
        block += 64
    if see(seen, shift, mixed(_block_key(buffer, line_begin, stop))):
        line_copies += 1
        line_bytes += stop - line_begin
    if see(seen, shift, mixed(_block_key(buffer, part_begin, last) + _ONE)):
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


@inlined
def _top_bound(
    grams: Hashes,
    n: int,
    chars: Integers,
    chars_after: Integers,
    seen: Hashes,
    counts: Counts,
    shift: np.uint64,
) -> int:
    """No n-gram times its occurrences has more characters."""
    # Where none comes twice, it is the first that counts.
    most = chars_after[0] - chars[0] + n - 1 if grams.size > 0 else 0
    for i in range(grams.size):
        if see(seen, shift, grams[i]):
            at = grams[i] >> (shift - _ONE)
            counts[at] += 1
            most = max(most, (counts[at] + 1) * (chars_after[i] - chars[i] + n - 1))
    return int(most)


@inlined
def _counted(
    grams: Hashes,
    added: Hashes,
    n: int,
    chars: Integers,
    chars_after: Integers,
    counts: Counts,
    shift: np.uint64,
) -> tuple[int, int]:
    """Lengthen n-grams by a word, to n; none times its occurrences has more characters.

    The second number is one that none occurs more often than. Some are counted together, in a loop
    without a branch that the processor would have to guess.
    """
    most, most_often = 0, 0
    for i in range(added.size):
        key = (grams[i] ^ (grams[i] >> _SHIFT)) * _MIX + added[i]
        grams[i] = key
        at = key >> (shift - _ONE)
        count = counts[at] + 1
        counts[at] = count
        most_often = max(most_often, count)
        most = max(most, count * (chars_after[i] - chars[i] + n - 1))
    return int(most), int(most_often)


@inlined
def _longest(chars: Integers, chars_after: Integers) -> int:
    most = 0
    for i in range(chars_after.size):
        most = max(most, chars_after[i] - chars[i])
    return int(most)


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
            longest = _longest(ends, ends[n:]) + n - 1
            if times * longest / chars <= limits[_GRAMS + column]:
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
            clear(grams[: own.size])
        clear(counts)
        found, times = _counted(grams, own[n - 1 :], n, ends, ends[n:], counts, shift)
        length = n
        if found / chars <= limits[_GRAMS + column]:
            out[_GRAMS + column] = True
            continue
        clear(seen)
        clear(counts)
        some = grams[: max(own.size - n + 1, 0)]
        found = _top_bound(some, n, ends, ends[n:], seen, counts, shift)
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
        clear(some_seen)
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
        join(
            buffer,
            starts[first:last],
            num_bytes[first:last],
            num_chars[first:last],
            joined,
            keys,
            ends,
        )
        _judge_top(
            own,
            keys[2],
            ends[0, : num_words + 1],
            top,
            limits,
            chars,
            some_seen,
            some_counts,
            seen_shift,
            out[d],
        )
        top_end = _GRAMS + top.size
        judge_duplicates(
            joined,
            keys,
            ends[0, : num_words + 1],
            ends[1, : num_words + 1],
            dup,
            limits[top_end:],
            chars,
            some_seen,
            seen_shift,
            out[d, top_end:],
        )
