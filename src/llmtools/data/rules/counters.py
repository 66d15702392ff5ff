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
from llmtools.data.instructions import bits_in, count_ones, load_8, trailing_zeros
from llmtools.data.rules.characters import ALNUM, ALPHA, LINE_END, character_table
from llmtools.data.rules.settings import DIALECTS, Conventions
from llmtools.data.rules.utf8 import class_at, inside, strip
from llmtools.data.rules.words import SOLID, SYMBOL, words_of
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
    "stop_words",
    "distinct_stop_words",
    "hashes",
    "ellipses",
    "lines",
    "bullet_lines",
    "ellipsis_lines",
)
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_PACKED = [int.from_bytes(word.encode(), "little") for word in STOP_WORDS]
# A factor whose product with each of them has other highest four bits: they name its place.
_FACTOR = next(
    np.uint64(factor)
    for factor in (0x9E3779B97F4A7C15 * n % (1 << 64) for n in range(1, 1 << 16, 2))
    if len({word * factor % (1 << 64) >> 60 for word in _PACKED}) == len(_PACKED)
)
_PLACES = np.zeros(16, np.uint64)
for _word in _PACKED:
    _PLACES[_word * int(_FACTOR) % (1 << 64) >> 60] = _word
_HIGHEST = np.uint64(60)
_UPPER = np.uint64(0x2020202020202020)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_ONE, _NONE = np.uint64(1), np.uint64(0)
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
            batch.buffer,
            words.offsets,
            words.starts,
            words.num_bytes,
            words.num_chars,
            words.kinds,
            dialect,
            out,
        )
        _count_lines(batch.buffer, batch.offsets, index, blocks, dialect, out[10:])
        batch.memo[key] = dict(zip(COLUMNS, out, strict=True))
    found: dict[str, Integers] = batch.memo[key]
    return found


@inlined
def _stop_word(word: np.uint64) -> int:
    """One bit, that of the stop word these bytes are, or 0."""
    place = (word * _FACTOR) >> _HIGHEST
    return int((_ONE if _PLACES[place] == word and word != _NONE else _NONE) << place)


@inlined
def _lowered(word: np.uint64, size: int) -> np.uint64:
    """A word of up to eight bytes in lower case; 0 where one of them is no ASCII letter."""
    for k in range(size):
        c = ((word >> np.uint64(8 * k)) & np.uint64(0xFF)) | np.uint64(32)
        if c < 97 or c > 122:
            return _NONE
    return np.uint64(word | (_UPPER >> np.uint64(64 - 8 * size)))


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
    buffer: Bytes,
    offsets: Integers,
    starts: Integers,
    num_bytes: Lengths,
    num_chars: Lengths,
    kinds: Kinds,
    dialect: int,
    out: Integers,
) -> None:
    lengths = np.zeros(_LONGEST + 1, np.int64)
    for d in range(offsets.size - 1):
        first, last = offsets[d], offsets[d + 1]
        word_chars, alnum, solid, solid_chars, alpha, symbol = 0, 0, 0, 0, 0, 0
        stop, seen, longest = 0, 0, 0
        for i in range(first, last):
            kind = kinds[i]
            chars = num_chars[i]
            word_chars += chars
            alnum += 1 if kind & ALNUM != 0 else 0
            alpha += 1 if kind & ALPHA != 0 else 0
            symbol += 1 if kind & SYMBOL != 0 else 0
            solid += 1 if kind & SOLID != 0 else 0
            solid_chars += chars if kind & SOLID != 0 else 0
        for i in range(first, last):
            # No stop word has eight bytes, so the eight of a longer one are none.
            size = min(num_bytes[i], 8)
            word = load_8(buffer, starts[i]) & (_ALL >> np.uint64(64 - 8 * size))
            if dialect == _DCLM:
                word = _lowered(word, size)
            found = _stop_word(word)
            stop += 1 if found != 0 else 0
            seen |= found
        median = 0
        if dialect == _DOLMA:
            for i in range(first, last):
                capped = min(num_chars[i], _LONGEST)
                longest = max(longest, capped)
                lengths[capped] += 1
            median = _median(lengths, longest, last - first)
            for length in range(longest + 1):
                lengths[length] = 0
        counts = (last - first, word_chars, alnum, solid, solid_chars, alpha, symbol, median, stop)
        for column in range(9):
            out[column, d] = counts[column]
        out[9, d] = count_ones(np.uint64(seen))


@inlined
def _is_at(buffer: Bytes, i: int, stop: int, a: int, b: int, c: int) -> bool:
    """Whether the bytes a, b, c stand at i."""
    return bool(i + 3 <= stop and buffer[i] == a and buffer[i + 1] == b and buffer[i + 2] == c)


@inlined
def _judge_line(
    buffer: Bytes, start: int, stop: int, index: Kinds, blocks: Kinds, dialect: int
) -> tuple[int, int, int]:
    """1 or 0: whether a line counts, opens with a bullet, and ends with an ellipsis."""
    if dialect != _DOLMA:
        start, stop = strip(buffer, start, stop, index, blocks)
    if start == stop:
        return (0 if dialect == _DCLM else 1), 0, 0
    opens = buffer[start] == 45 or (dialect != _DATATROVE and buffer[start] == 42)
    if dialect != _DOLMA:
        opens = opens or _is_at(buffer, start, stop, 0xE2, 0x80, 0xA2)
    if dialect == _DCLM:
        opens = opens or _is_at(buffer, start, stop, 0xE2, 0x97, 0x8F)
    ends = False
    if stop - start >= 3:
        ends = _is_at(buffer, stop - 3, stop, 0xE2, 0x80, 0xA6)
        if dialect != _DOLMA:
            ends = ends or _is_at(buffer, stop - 3, stop, 46, 46, 46)
        if dialect == _DCLM and stop - start >= 5 and _is_at(buffer, stop - 3, stop, 46, 32, 46):
            ends = ends or (buffer[stop - 4] == 32 and buffer[stop - 5] == 46)
    return 1, (1 if opens else 0), (1 if ends else 0)


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
        hashes, ellipses, dots = 0, 0, 0
        lines, bullets, ended = 0, 0, 0
        begin, spaced_from, dots_end = start, start, start
        block = start
        while block < stop:
            # Controls, periods, and the first bytes of characters that are not ASCII.
            marks = bits_in(buffer, block, 0, 31) | bits_in(buffer, block, 46, 46)
            marks |= bits_in(buffer, block, 0xC0, 0xFF)
            numbers = bits_in(buffer, block, 35, 35)
            marks = inside(marks, stop - block)
            numbers = inside(numbers, stop - block)
            hashes += count_ones(numbers)
            while marks != _NONE:
                i = block + trailing_zeros(marks)
                marks &= marks - _ONE
                if i < begin:
                    # The line feed of a pair with a carriage return.
                    continue
                c = buffer[i]
                if c == 46:
                    dots = dots + 1 if i == dots_end else 1
                    dots_end = i + 1
                    if dots == 3:
                        ellipses += 1
                        dots = 0
                    if dialect == _DCLM and i >= spaced_from and i + 5 <= stop:
                        if buffer[i + 1] == 32 and _is_at(buffer, i + 2, stop, 46, 32, 46):
                            ellipses += 1
                            spaced_from = i + 5
                    continue
                width = 1
                is_end = c == 10
                if c != 10:
                    found, width = class_at(buffer, i, index, blocks)
                    if _is_at(buffer, i, stop, 0xE2, 0x80, 0xA6):
                        ellipses += 1
                    is_end = dialect == _DATATROVE and found & LINE_END != 0
                    if c == 13 and i + 1 < stop and buffer[i + 1] == 10:
                        width = 2
                if is_end:
                    counts, opens, closes = _judge_line(buffer, begin, i, index, blocks, dialect)
                    lines += counts
                    bullets += opens
                    ended += closes
                    begin = i + width
            block += 64
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
    lowered = [word.lower() for word in words] if conventions.dialect == "dclm" else words
    return {
        "words": len(words),
        "word_chars": len("".join(words)),
        "alnum_words": sum(1 for word in words if any(map(str.isalnum, word))),
        "alpha_words": sum(1 for word in words if any(map(str.isalpha, word))),
        "symbol_words": sum(1 for word in words if "#" in word or "…" in word),
        "stop_words": sum(1 for word in lowered if word in STOP_WORDS),
        "distinct_stop_words": len(set(lowered) & set(STOP_WORDS)),
        "hashes": text.count("#"),
        "ellipses": sum(map(text.count, signs)),
        "lines": len(lines),
        "bullet_lines": sum(1 for line in lines if line.startswith(bullets)),
        "ellipsis_lines": sum(1 for line in lines if line.endswith(ends)),
    }
