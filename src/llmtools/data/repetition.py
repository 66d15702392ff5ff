"""Repetition inside a document, as measured by Gopher (Rae et al. 2021, table A1).

    duplicate paragraph fraction             0.30
    duplicate paragraph character fraction   0.20
    duplicate line fraction                  0.30
    duplicate line character fraction        0.20
    top 2, 3, 4-gram character fraction      0.20 0.18 0.16
    duplicate 5 ... 10-gram character fr.    0.15 0.14 0.13 0.12 0.11 0.10

Definitions follow datatrove 0.10: paragraphs are cut at runs of two or more line feeds in the
stripped text, lines at runs of line feeds, every occurrence after the first is a duplicate, and
characters are divided by the characters of the whole text. A top n-gram counts with its spaces; a
duplicate n-gram without them, and the scan jumps over it. Two differences: words are what stands
between white space (there: spaCy's), and an n-gram is compared word by word (there: joined without
separators, so that "ab c" repeats "a bc").

Fast path: a numba kernel over 64-bit hashes. Readable reference: `repetition_reference`.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.data.jit import kernel

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
Fractions = npt.NDArray[np.float64]

# The columns of the first four results; one per top n-gram and one per duplicate n-gram follow.
BLOCK_MEASURES = ("dup_para_frac", "dup_para_char_frac", "dup_line_frac", "dup_line_char_frac")

_FNV_BASIS = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_SHIFT = np.uint64(31)
_LINE_FEED = 10


def repetition(batch: Batch, top: tuple[int, ...], dup: tuple[int, ...]) -> Fractions:
    """Fractions (D, 4 + len(top) + len(dup)): BLOCK_MEASURES, top n-grams, duplicate n-grams.

    An n-gram that a document is too short for has fraction 0, and so has all of an empty text.
    """
    longest = int(np.diff(batch.offsets).max(initial=0))
    out = np.zeros((len(batch.documents), 4 + len(top) + len(dup)))
    # A hash table at most half full: a text of b bytes has at most b / 2 + 1 words or blocks.
    table_size = 4 << (longest + 2).bit_length()
    _measure(
        batch.buffer,
        batch.offsets,
        np.array(top, np.int64),
        np.array(dup, np.int64),
        np.empty(longest // 2 + 1, np.uint64),
        np.empty(longest // 2 + 1, np.uint64),
        np.empty(longest // 2 + 2, np.int64),
        np.empty(table_size, np.uint64),
        np.zeros(table_size, np.int64),
        np.zeros(table_size, np.int64),
        out,
    )
    return out


@kernel
def _space_bytes(buffer: Bytes, i: int, stop: int) -> int:
    """Length in bytes of the white space character (as str.isspace has it) at i; 0 for others."""
    c = buffer[i]
    if c == 32 or 9 <= c <= 13 or 28 <= c <= 31:
        return 1
    if c < 0xC2:
        return 0
    if c == 0xC2 and (buffer[i + 1] == 0x85 or buffer[i + 1] == 0xA0):
        return 2
    if c < 0xE1 or c > 0xE3 or i + 2 >= stop:
        return 0
    second, third = buffer[i + 1], buffer[i + 2]
    is_space = (
        (c == 0xE1 and second == 0x9A and third == 0x80)  # U+1680
        or (c == 0xE2 and second == 0x80 and 0x80 <= third <= 0x8A)  # U+2000-200A
        or (c == 0xE2 and second == 0x80 and (third == 0xA8 or third == 0xA9 or third == 0xAF))
        or (c == 0xE2 and second == 0x81 and third == 0x9F)  # U+205F
        or (c == 0xE3 and second == 0x80 and third == 0x80)  # U+3000
    )
    return 3 if is_space else 0


@kernel
def _split_words(
    buffer: Bytes, start: int, stop: int, words: Hashes, ends: Integers
) -> tuple[int, int, int, int]:
    """Hash the words of a text; ends[i + 1] - ends[i] is the length of word i in characters.

    Returns the number of words, the characters of the text, and the bytes at which the first word
    starts and the last one ends.
    """
    num_words = 0
    num_chars = 0
    word_chars = 0
    first = start
    last = start
    x = _FNV_BASIS
    ends[0] = 0
    i = start
    while i <= stop:
        c = buffer[i] if i < stop else np.uint8(32)
        # Nearly every byte is no candidate for white space and spared the look.
        width = 0 if 32 < c < 0xC2 else (_space_bytes(buffer, i, stop) if i < stop else 1)
        if width == 0:
            if word_chars == 0:
                x = _FNV_BASIS
                if num_words == 0:
                    first = i
            x = (x ^ np.uint64(c)) * _FNV_PRIME
            is_start = 1 if c & 0xC0 != 0x80 else 0
            word_chars += is_start
            num_chars += is_start
            i += 1
            continue
        if word_chars > 0:
            words[num_words] = x
            num_words += 1
            ends[num_words] = ends[num_words - 1] + word_chars
            word_chars = 0
            last = i
        num_chars += 1 if i < stop else 0
        i += width
    return num_words, num_chars, first, last


@kernel
def _slot(key: np.uint64, table: Hashes, rounds: Integers, current: int, mask: int) -> int:
    """Where `key` is, or would be put, in the hash table; slots of earlier rounds are free."""
    at = np.int64((key ^ (key >> _HALF)) & np.uint64(mask))
    while rounds[at] == current and table[at] != key:
        at = (at + 1) & mask
    return int(at)


@kernel
def _duplicate_blocks(
    buffer: Bytes,
    start: int,
    stop: int,
    separator: int,
    table: Hashes,
    rounds: Integers,
    current: int,
    mask: int,
) -> tuple[int, int, int]:
    """Blocks between runs of `separator` or more line feeds, duplicates, and their characters."""
    num_blocks = 0
    num_duplicates = 0
    duplicate_chars = 0
    chars = 0
    x = _FNV_BASIS
    i = start
    while True:
        newlines = 0
        while i + newlines < stop and buffer[i + newlines] == _LINE_FEED:
            newlines += 1
        if i < stop and newlines < separator:
            # A single line feed belongs to its paragraph like any other character.
            x = (x ^ np.uint64(buffer[i])) * _FNV_PRIME
            chars += 1 if buffer[i] & 0xC0 != 0x80 else 0
            i += 1
            continue
        num_blocks += 1
        at = _slot(x, table, rounds, current, mask)
        if rounds[at] == current:
            num_duplicates += 1
            duplicate_chars += chars
        rounds[at] = current
        table[at] = x
        if i == stop:
            return num_blocks, num_duplicates, duplicate_chars
        x = _FNV_BASIS
        chars = 0
        i += newlines


@kernel
def _extend(grams: Hashes, words: Hashes, num_words: int, length: int, wanted: int) -> int:
    """Lengthen the hashes of `length`-grams, in place, to `wanted`; returns how many there are."""
    for n in range(length + 1, wanted + 1):
        for i in range(num_words - n + 1):
            g = grams[i]
            grams[i] = (g ^ (g >> _SHIFT)) * _MIX + words[i + n - 1]
    return num_words - wanted + 1


@kernel
def _top_chars(
    grams: Hashes,
    num_grams: int,
    n: int,
    ends: Integers,
    table: Hashes,
    rounds: Integers,
    counts: Integers,
    current: int,
    mask: int,
) -> int:
    """Occurrences times length, spaces included, of the most frequent n-gram, first if several."""
    best = np.int64(0)
    for i in range(num_grams):
        at = _slot(grams[i], table, rounds, current, mask)
        if rounds[at] != current:
            rounds[at] = current
            table[at] = grams[i]
            counts[at] = 0
        counts[at] += 1
        best = max(best, counts[at])
    for i in range(num_grams):
        if counts[_slot(grams[i], table, rounds, current, mask)] == best:
            return int(best * (ends[i + n] - ends[i] + n - 1))
    return 0


@kernel
def _duplicate_chars(
    grams: Hashes,
    num_grams: int,
    n: int,
    ends: Integers,
    table: Hashes,
    rounds: Integers,
    current: int,
    mask: int,
) -> int:
    """Characters in n-grams that occurred before, none counted twice."""
    total = 0
    i = 0
    while i < num_grams:
        at = _slot(grams[i], table, rounds, current, mask)
        if rounds[at] == current:
            total += ends[i + n] - ends[i]
            i += n
        else:
            rounds[at] = current
            table[at] = grams[i]
            i += 1
    return total


@kernel
def _measure(
    buffer: Bytes,
    offsets: Integers,
    top: Integers,
    dup: Integers,
    words: Hashes,
    grams: Hashes,
    ends: Integers,
    table: Hashes,
    rounds: Integers,
    counts: Integers,
    out: Fractions,
) -> None:
    current = 0
    for d in range(offsets.size - 1):
        start, stop = offsets[d], offsets[d + 1]
        num_words, num_chars, first, last = _split_words(buffer, start, stop, words, ends)
        if num_chars == 0:
            continue
        # A small part of the table for a small text, so that it stays in the cache.
        mask = 3
        while mask < stop - start + 2:
            mask = 2 * mask + 1
        for kind in range(2):
            current += 1
            begin, end = (first, last) if kind == 0 else (start, stop)
            blocks, duplicates, chars = _duplicate_blocks(
                buffer, begin, end, 2 - kind, table, rounds, current, mask
            )
            out[d, 2 * kind] = duplicates / blocks
            out[d, 2 * kind + 1] = chars / num_chars
        grams[:num_words] = words[:num_words]
        length = 1
        for column in range(top.size + dup.size):
            is_top = column < top.size
            n = top[column] if is_top else dup[column - top.size]
            if n < length:
                grams[:num_words] = words[:num_words]
                length = 1
            num_grams = _extend(grams, words, num_words, length, n)
            length = n
            current += 1
            if is_top:
                chars = _top_chars(grams, num_grams, n, ends, table, rounds, counts, current, mask)
            else:
                chars = _duplicate_chars(grams, num_grams, n, ends, table, rounds, current, mask)
            out[d, 4 + column] = chars / num_chars


def repetition_reference(text: str, top: tuple[int, ...], dup: tuple[int, ...]) -> list[float]:
    """The same fractions of one text, in plain Python."""
    if not text:
        return [0.0] * (4 + len(top) + len(dup))
    out = []
    for blocks in (re.split(r"\n{2,}", text.strip()), re.split(r"\n+", text)):
        repeated = [b for i, b in enumerate(blocks) if b in blocks[:i]]
        out += [len(repeated) / len(blocks), len("".join(repeated)) / len(text)]
    words = text.split()
    for n in top:
        counted = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        gram, count = counted.most_common(1)[0] if counted else ((), 0)
        out.append(len(" ".join(gram)) * count / len(text))
    for n in dup:
        seen: set[tuple[str, ...]] = set()
        chars = 0
        i = 0
        while i < len(words) - n + 1:
            gram = tuple(words[i : i + n])
            chars += len("".join(gram)) if gram in seen else 0
            i += n if gram in seen else 1
            seen.add(gram)
        out.append(chars / len(text))
    return out
