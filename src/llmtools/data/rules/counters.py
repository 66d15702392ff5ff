"""What the quality rules count in a text: signs, lines and kinds of words, in one pass.

Lines, and what opens or ends them, differ with the dialect:

    datatrove  str.splitlines, white space around a line ignored; bullets • -; ends '...' '…'
    dolma      at each line feed, nothing ignored; bullets * -; end '…'
    dclm       at each line feed, stripped, empty ones left out; bullets ● • * -; ends also '. . .'
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.data.rules.characters import ALNUM, ALPHA, character_table
from llmtools.data.rules.settings import DIALECTS, Conventions
from llmtools.data.rules.utf8 import inside, strip, width_of
from llmtools.data.rules.words import SOLID, SYMBOL, words_of
from llmtools.instructions import bits_in, count_ones, load_8, trailing_zeros
from llmtools.jit import inlined, kernel

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int32]
Kinds = npt.NDArray[np.uint16]

# The columns of `counters`. SOLID words hold a character that is not in datatrove's list of
# punctuation. The median length, of which lengths of more than 1,000 are taken for 1,000, is asked
# for by dolma's dialect alone and 0 in the others.
COLUMNS = (
    "words",
    "word_chars",
    "alnum_words",
    "solid_words",
    "solid_chars",
    "alpha_words",
    "symbol_words",
    "twice_median_length",
    "hashes",
    "ellipses",
    "lines",
    "bullet_lines",
    "ellipsis_lines",
)
_ONE, _NONE = np.uint64(1), np.uint64(0)
_LOW, _THREE = np.uint64(0xFF), np.uint64(0xFFFFFF)
# Signs as they are read, the first byte lowest: • ● … and '...' and '. .'
_BULLET, _CIRCLE, _ELLIPSIS = np.uint64(0xA280E2), np.uint64(0x8F97E2), np.uint64(0xA680E2)
_DOTS, _SPACED = np.uint64(0x2E2E2E), np.uint64(0x2E202E)
_DATATROVE, _DOLMA, _DCLM = 0, 1, 2
_LONGEST = 1000


def counters(batch: Batch, conventions: Conventions) -> dict[str, Integers]:
    """COLUMNS of every document, each (D,); found once and kept with the batch."""
    key = f"counters {conventions.dialect} {conventions.words}"
    if key not in batch.memo:
        words = words_of(batch, conventions.words)
        index, blocks = character_table()
        dialect = DIALECTS.index(conventions.dialect)
        out = np.zeros((len(COLUMNS), len(batch.documents)), np.int64)
        _count_words(
            words.offsets,
            words.num_chars,
            words.kinds,
            dialect,
            out,
        )
        _count_lines(batch.buffer, batch.offsets, index, blocks, dialect, out[8:])
        batch.memo[key] = dict(zip(COLUMNS, out, strict=True))
    found: dict[str, Integers] = batch.memo[key]
    return found


@kernel
def _median(lengths: Integers, longest: int, count: int) -> int:
    """Twice the median of so many lengths, given how often each occurs."""
    median = 0
    # Both middle words; of an odd number they are the same.
    for place in ((count - 1) // 2, count // 2):
        below = 0
        for length in range(longest + 1):
            below += lengths[length]
            if below > place >= 0:
                median += length
                break
    return median


@kernel
def _count_words(
    offsets: Integers,
    num_chars: Lengths,
    kinds: Kinds,
    dialect: int,
    out: Integers,
) -> None:
    lengths = np.zeros(_LONGEST + 1, np.int64)
    for d in range(offsets.size - 1):
        first, last = offsets[d], offsets[d + 1]
        word_chars, alnum, solid, solid_chars, alpha, symbol = 0, 0, 0, 0, 0, 0
        longest = 0
        for i in range(first, last):
            kind = kinds[i]
            chars = num_chars[i]
            word_chars += chars
            alnum += 1 if kind & ALNUM != 0 else 0
            alpha += 1 if kind & ALPHA != 0 else 0
            symbol += 1 if kind & SYMBOL != 0 else 0
            solid += 1 if kind & SOLID != 0 else 0
            solid_chars += chars if kind & SOLID != 0 else 0
        median = 0
        if dialect == _DOLMA:
            for i in range(first, last):
                capped = min(num_chars[i], _LONGEST)
                longest = max(longest, capped)
                lengths[capped] += 1
            median = _median(lengths, longest, last - first)
            for length in range(longest + 1):
                lengths[length] = 0
        counts = (last - first, word_chars, alnum, solid, solid_chars, alpha, symbol, median)
        for column in range(8):
            out[column, d] = counts[column]


@inlined
def _judge_line(
    buffer: Bytes, start: int, stop: int, index: Kinds, blocks: Kinds, dialect: int
) -> tuple[int, int, int]:
    """1 or 0: whether a line counts, opens with a bullet, and ends with an ellipsis."""
    if dialect != _DOLMA:
        start, stop = strip(buffer, start, stop, index, blocks)
    if start == stop:
        return (0 if dialect == _DCLM else 1), 0, 0
    # Three bytes at each end as one number: comparing one after another is guessed wrong too often.
    head = load_8(buffer, start) & _THREE
    opens = head & _LOW == 45 or (dialect != _DATATROVE and head & _LOW == 42)
    opens = opens or (dialect != _DOLMA and head == _BULLET)
    opens = opens or (dialect == _DCLM and head == _CIRCLE)
    ends = False
    if stop - start >= 3:
        place = max(stop - 8, 0)
        tail = (load_8(buffer, place) >> np.uint64(8 * (stop - 3 - place))) & _THREE
        ends = tail == _ELLIPSIS or (dialect != _DOLMA and tail == _DOTS)
        if dialect == _DCLM and stop - start >= 5 and tail == _SPACED:
            ends = ends or (buffer[stop - 4] == 32 and buffer[stop - 5] == 46)
    return 1, (1 if opens else 0), (1 if ends else 0)


@inlined
def _count_apart(marks: np.uint64, block: int, size: int, free_from: int) -> tuple[int, int]:
    """How many spans of `size` bytes that start at `marks` do not overlap, and where the last ends.

    free_from: where the last one before ends.
    """
    found = 0
    while marks != _NONE:
        i = block + trailing_zeros(marks)
        marks &= marks - _ONE
        if i >= free_from:
            found += 1
            free_from = i + size
    return found, free_from


@kernel
def _count_lines(
    buffer: Bytes,
    offsets: Integers,
    index: Kinds,
    blocks: Kinds,
    dialect: int,
    out: Integers,
) -> None:
    for d in range(offsets.size - 1):
        start, stop = offsets[d], offsets[d + 1]
        hashes, ellipses = 0, 0
        lines, bullets, ended = 0, 0, 0
        begin, dots_from, spaced_from = start, start, start
        for block in range(start, stop, 64):
            left = stop - block
            hashes += count_ones(inside(bits_in(buffer, block, 35, 35), left))
            # U+2026, and U+2028 and U+2029, begin with the same two bytes.
            third = bits_in(buffer, block, 0xE2, 0xE2) & bits_in(buffer, block + 1, 0x80, 0x80)
            ellipses += count_ones(inside(third & bits_in(buffer, block + 2, 0xA6, 0xA6), left))
            dots = bits_in(buffer, block, 46, 46)
            three = dots & bits_in(buffer, block + 1, 46, 46) & bits_in(buffer, block + 2, 46, 46)
            found, dots_from = _count_apart(inside(three, left - 2), block, 3, dots_from)
            ellipses += found
            if dialect == _DCLM:
                gaps = bits_in(buffer, block + 1, 32, 32) & bits_in(buffer, block + 3, 32, 32)
                three = dots & gaps & bits_in(buffer, block + 2, 46, 46)
                three &= bits_in(buffer, block + 4, 46, 46)
                found, spaced_from = _count_apart(inside(three, left - 4), block, 5, spaced_from)
                ellipses += found
            if dialect == _DATATROVE:
                marks = bits_in(buffer, block, 10, 13) | bits_in(buffer, block, 28, 30)
                marks |= third & bits_in(buffer, block + 2, 0xA8, 0xA9)
                marks |= bits_in(buffer, block, 0xC2, 0xC2) & bits_in(buffer, block + 1, 0x85, 0x85)
            else:
                marks = bits_in(buffer, block, 10, 10)
            marks = inside(marks, left)
            while marks != _NONE:
                i = block + trailing_zeros(marks)
                marks &= marks - _ONE
                if i < begin:
                    # The line feed of a pair with a carriage return.
                    continue
                counts, opens, closes = _judge_line(buffer, begin, i, index, blocks, dialect)
                lines += counts
                bullets += opens
                ended += closes
                begin = i + width_of(buffer[i])
                if buffer[i] == 13 and begin < stop and buffer[begin] == 10:
                    begin += 1
        if dialect != _DATATROVE or begin < stop:
            counts, opens, closes = _judge_line(buffer, begin, stop, index, blocks, dialect)
            lines += counts
            bullets += opens
            ended += closes
        found_here = (hashes, ellipses, lines, bullets, ended)
        for column in range(5):
            out[column, d] = found_here[column]


def counters_reference(text: str, words: list[str], conventions: Conventions) -> dict[str, float]:
    """What depends on lines and signs, of one text, in plain Python."""
    lines = text.splitlines()
    bullets: tuple[str, ...] = ("•", "-")
    ends: tuple[str, ...] = ("...", "…")
    if conventions.dialect == "dolma":
        lines, bullets, ends = text.split("\n"), ("*", "-"), ("…",)
    else:
        lines = [line.strip() for line in lines]
    if conventions.dialect == "dclm":
        lines = [line for line in map(str.strip, text.split("\n")) if line]
        bullets, ends = ("●", "•", "*", "-"), ("...", ". . .", "…")
    signs = ("...", ". . .", "…") if conventions.dialect == "dclm" else ("...", "…")
    return {
        "words": len(words),
        "word_chars": len("".join(words)),
        "alnum_words": sum(1 for word in words if any(map(str.isalnum, word))),
        "alpha_words": sum(1 for word in words if any(map(str.isalpha, word))),
        "symbol_words": sum(1 for word in words if "#" in word or "…" in word),
        "hashes": text.count("#"),
        "ellipses": sum(map(text.count, signs)),
        "lines": len(lines),
        "bullet_lines": sum(1 for line in lines if line.startswith(bullets)),
        "ellipsis_lines": sum(1 for line in lines if line.endswith(ends)),
    }
