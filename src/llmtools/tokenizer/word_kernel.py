"""Splitting UTF-8 text into words and counting them, compiled.

The rules are those of split.py, written as scanners: a regular expression engine takes ten times as
long. tests/parity holds each of them to the `tokenizers` library on every corpus and on arbitrary
text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.jit import kernel
from llmtools.tokenizer.classes import BLANK, BLOCK, DIGIT, LETTER, NUMBER, SIGN, SPACE

# What a scanner is called by. SIGNS drops blanks and makes punctuation words of its own (BERT),
# MARKS begins a word at each U+2581, CHARACTERS makes every character a word, WHOLE every text.
GPT2, DIGITS, GPT4, QWEN2, SIGNS, MARKS, CHARACTERS, WHOLE = range(8)
SCANNERS = {"gpt2": GPT2, "smollm": DIGITS, "gpt4": GPT4, "llama3": GPT4, "qwen2": QWEN2}
BLOCK_BITS = 8
assert BLOCK == 1 << BLOCK_BITS

Bytes = npt.NDArray[np.uint8]
Index = npt.NDArray[np.uint16]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

_OTHER = LETTER | NUMBER | SPACE
_FNV, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
# Places of numbers that a call of count_words leaves for the next.
DOCUMENT, POSITION, NUM_WORDS, NUM_BYTES, NUM_READ = range(5)


@kernel
def _decode(text: Bytes, at: int) -> Any:
    """The code point at a position of valid UTF-8, and the bytes it takes."""
    lead = np.int64(text[at])
    if lead < 0x80:
        return lead, 1
    if lead < 0xE0:
        return (lead & 31) << 6 | (text[at + 1] & 63), 2
    if lead < 0xF0:
        return (lead & 15) << 12 | np.int64(text[at + 1] & 63) << 6 | (text[at + 2] & 63), 3
    high = (lead & 7) << 18 | np.int64(text[at + 1] & 63) << 12
    return high | np.int64(text[at + 2] & 63) << 6 | (text[at + 3] & 63), 4


@kernel
def _flags(text: Bytes, at: int, index: Index, blocks: Bytes) -> tuple[int, int]:
    """The flags of the character at a position, and the bytes it takes."""
    lead = text[at]
    if lead < 0x80:
        return blocks[lead], 1
    code, size = _decode(text, at)
    return blocks[(np.int64(index[code >> BLOCK_BITS]) << BLOCK_BITS) + (code & 255)], size


@kernel
def _run(
    text: Bytes, at: int, end: int, wanted: int, walls: int, index: Index, blocks: Bytes
) -> int:
    """Where the run of characters with a flag of `wanted` ends; with 0, of those with none.

    A character with a flag of `walls` is as the end of the text, here and below.
    """
    while at < end:
        flags, size = _flags(text, at, index, blocks)
        if flags & walls:
            break
        is_in = (flags & wanted) != 0 if wanted else (flags & _OTHER) == 0
        if not is_in:
            break
        at += size
    return at


@kernel
def _spaces(text: Bytes, start: int, end: int, walls: int, index: Index, blocks: Bytes) -> int:
    r"""The match of `\s+(?!\S)|\s+` at a space: all of a run but its last, unless the text ends."""
    at, last = start, start
    while at < end:
        flags, size = _flags(text, at, index, blocks)
        if flags & walls:
            return at
        if not flags & SPACE:
            return at if last == start else last
        last = at
        at += size
    return at


@kernel
def _contraction(text: Bytes, at: int, end: int, ignores_case: bool) -> int:
    """Bytes of 's, 't, 're, 've, 'm, 'll or 'd after an apostrophe at `at`; 0 where none is."""
    if at + 1 >= end:
        return 0
    first = text[at + 1]
    # Without regard to case U+017F, the long s, is an s.
    if ignores_case and first == 0xC5 and at + 2 < end and text[at + 2] == 0xBF:
        return 3
    second = text[at + 2] if at + 2 < end else np.uint8(0)
    if ignores_case:
        first |= np.uint8(32) if 65 <= first <= 90 else np.uint8(0)
        second |= np.uint8(32) if 65 <= second <= 90 else np.uint8(0)
    if first == 115 or first == 116 or first == 109 or first == 100:
        return 2
    if (first == 114 or first == 118) and second == 101:
        return 3
    return 3 if first == 108 and second == 108 else 0


@kernel
def _next_gpt2(text: Bytes, at: int, end: int, walls: int, index: Index, blocks: Bytes) -> int:
    if text[at] == 39:
        size = _contraction(text, at, end, False)
        if size:
            return at + size
    start = at
    flags, size = _flags(text, at, index, blocks)
    if text[at] == 32 and at + 1 < end:
        after, after_size = _flags(text, at + 1, index, blocks)
        if not after & (SPACE | walls):
            start, flags, size = at + 1, after, after_size
    if flags & LETTER:
        return _run(text, start + size, end, LETTER, walls, index, blocks)
    if flags & NUMBER:
        return _run(text, start + size, end, NUMBER, walls, index, blocks)
    if not flags & SPACE:
        return _run(text, start + size, end, 0, walls, index, blocks)
    return _spaces(text, at, end, walls, index, blocks)


@kernel
def _line_ends(text: Bytes, at: int, end: int) -> int:
    while at < end and (text[at] == 10 or text[at] == 13):
        at += 1
    return at


@kernel
def _next_gpt4(text: Bytes, at: int, end: int, digits: int, index: Index, blocks: Bytes) -> int:
    if text[at] == 39:
        size = _contraction(text, at, end, True)
        if size:
            return at + size
    flags, size = _flags(text, at, index, blocks)
    if flags & LETTER:
        return _run(text, at + size, end, LETTER, 0, index, blocks)
    if flags & NUMBER:
        stop = at + size
        for _ in range(digits - 1):
            if stop == end:
                break
            flags, size = _flags(text, stop, index, blocks)
            if not flags & NUMBER:
                break
            stop += size
        return stop
    after, after_size = SPACE, 0
    if at + size < end:
        after, after_size = _flags(text, at + size, index, blocks)
    if after & LETTER and text[at] != 10 and text[at] != 13:
        return _run(text, at + size + after_size, end, LETTER, 0, index, blocks)
    if not flags & SPACE:
        return _line_ends(text, _run(text, at + size, end, 0, 0, index, blocks), end)
    if text[at] == 32 and not after & _OTHER:
        stop = _run(text, at + size + after_size, end, 0, 0, index, blocks)
        return _line_ends(text, stop, end)
    last_line_end = -1
    stop = at
    while stop < end:
        flags, size = _flags(text, stop, index, blocks)
        if not flags & SPACE:
            break
        if text[stop] == 10 or text[stop] == 13:
            last_line_end = stop
        stop += size
    if last_line_end >= 0:
        return last_line_end + 1
    return _spaces(text, at, end, 0, index, blocks)


@kernel
def _next_word(
    text: Bytes, at: int, end: int, scanner: int, index: Index, blocks: Bytes
) -> tuple[int, int]:
    """(start, end) of the first word from `at` on; (end, end) where none is left."""
    if scanner == GPT2:
        return at, _next_gpt2(text, at, end, 0, index, blocks)
    if scanner == GPT4:
        return at, _next_gpt4(text, at, end, 3, index, blocks)
    if scanner == QWEN2:
        return at, _next_gpt4(text, at, end, 1, index, blocks)
    if scanner == WHOLE:
        return at, end
    flags, size = _flags(text, at, index, blocks)
    if scanner == CHARACTERS:
        return at, at + size
    if scanner == DIGITS:
        # The digits cut the text first, so that nothing looks ahead across one.
        if flags & DIGIT:
            return at, at + size
        return at, _next_gpt2(text, at, end, DIGIT, index, blocks)
    if scanner == MARKS:
        stop = at + size
        while stop < end and not (
            text[stop] == 0xE2 and text[stop + 1] == 0x96 and text[stop + 2] == 0x81
        ):
            stop += 1
        return at, stop
    while flags & BLANK:
        at += size
        if at == end:
            return end, end
        flags, size = _flags(text, at, index, blocks)
    stop = at + size
    if not flags & SIGN:
        while stop < end:
            flags, size = _flags(text, stop, index, blocks)
            if flags & (BLANK | SIGN):
                break
            stop += size
    return at, stop


@kernel
def count_words(
    text: Bytes,
    offsets: Longs,
    scanner: int,
    index: Index,
    blocks: Bytes,
    slots: Ints,
    hashes: Hashes,
    starts: Longs,
    counts: Longs,
    words: Bytes,
    at: Longs,
) -> None:
    """Count the words of documents in a hash table, until the table is full.

    text, offsets: (T,) uint8 and (D + 1,) int64. slots: (power of two,) int32, 0 or 1 + a word's
    number. hashes, counts: (W,) uint64 and int64; starts: (W + 1,) int64 into `words`, (B,) uint8.
    at: the numbers named above, where to go on; DOCUMENT is D when all is read. The words before
    POSITION are in.
    """
    mask = np.uint64(slots.size - 1)
    num_words, num_bytes, num_read = at[NUM_WORDS], at[NUM_BYTES], at[NUM_READ]
    while at[DOCUMENT] < offsets.size - 1:
        end = offsets[at[DOCUMENT] + 1]
        place = max(at[POSITION], offsets[at[DOCUMENT]])
        while place < end:
            start, stop = _next_word(text, place, end, scanner, index, blocks)
            if start == stop:
                break
            hashed = _FNV
            for i in range(start, stop):
                hashed = (hashed ^ np.uint64(text[i])) * _PRIME
            hashed ^= hashed >> np.uint64(29)
            hashed *= np.uint64(0xBF58476D1CE4E5B9)
            hashed ^= hashed >> np.uint64(32)
            slot = hashed & mask
            number = slots[slot]
            while number:
                known = number - 1
                if hashes[known] == hashed:
                    first = starts[known]
                    if starts[known + 1] - first == stop - start:
                        i = 0
                        while i < stop - start and words[first + i] == text[start + i]:
                            i += 1
                        if i == stop - start:
                            break
                slot = (slot + np.uint64(1)) & mask
                number = slots[slot]
            if number:
                counts[number - 1] += 1
            else:
                if num_words == hashes.size or num_bytes + stop - start > words.size:
                    at[POSITION], at[NUM_READ] = place, num_read
                    at[NUM_WORDS], at[NUM_BYTES] = num_words, num_bytes
                    return
                hashes[num_words], counts[num_words] = hashed, 1
                words[num_bytes : num_bytes + stop - start] = text[start:stop]
                num_bytes += stop - start
                num_words += 1
                starts[num_words] = num_bytes
                slots[slot] = num_words
            num_read += 1
            place = stop
        at[DOCUMENT] += 1
    at[NUM_READ], at[NUM_WORDS], at[NUM_BYTES] = num_read, num_words, num_bytes


@kernel
def fill_slots(hashes: Hashes, num_words: int, slots: Ints) -> None:
    """Enter words that are all different into empty slots."""
    mask = np.uint64(slots.size - 1)
    for number in range(num_words):
        slot = hashes[number] & mask
        while slots[slot]:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = number + 1


@kernel
def add_counted(
    hashes: Hashes,
    starts: Longs,
    words: Bytes,
    counts: Longs,
    slots: Ints,
    kept_hashes: Hashes,
    kept_starts: Longs,
    kept_words: Bytes,
    kept: Longs,
) -> int:
    """Add the counts of words, some of them equal, in a table with room for all of them.

    The first four as in count_words, sizes exact. Returns the number of different words.
    """
    mask = np.uint64(slots.size - 1)
    num_words = num_bytes = 0
    for number in range(hashes.size):
        first, size = starts[number], starts[number + 1] - starts[number]
        slot = hashes[number] & mask
        found = slots[slot]
        while found:
            place = kept_starts[found - 1]
            is_same = kept_hashes[found - 1] == hashes[number]
            if is_same and kept_starts[found] - place == size:
                i = 0
                while i < size and kept_words[place + i] == words[first + i]:
                    i += 1
                if i == size:
                    break
            slot = (slot + np.uint64(1)) & mask
            found = slots[slot]
        if found:
            kept[found - 1] += counts[number]
            continue
        kept_hashes[num_words], kept[num_words] = hashes[number], counts[number]
        kept_words[num_bytes : num_bytes + size] = words[first : first + size]
        num_bytes += size
        num_words += 1
        kept_starts[num_words] = num_bytes
        slots[slot] = num_words
    return num_words


@kernel
def reorder(starts: Longs, words: Bytes, order: Longs, new_starts: Longs, new_words: Bytes) -> None:
    """Copy words in another order; order: (n,) int64, their numbers."""
    end = 0
    for place in range(order.size):
        first = starts[order[place]]
        size = starts[order[place] + 1] - first
        new_words[end : end + size] = words[first : first + size]
        end += size
        new_starts[place + 1] = end


@kernel
def split_words(text: Bytes, scanner: int, index: Index, blocks: Bytes, ends: Longs) -> int:
    """Where the words of one text end, for tests: fills ends (T,) int64 and returns how many."""
    num, place = 0, 0
    while place < text.size:
        start, stop = _next_word(text, place, text.size, scanner, index, blocks)
        if start == stop:
            break
        ends[num] = stop
        num += 1
        place = stop
    return num
