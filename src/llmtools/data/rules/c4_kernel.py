"""The kernel of rule `c4`: which lines of a text stay, and why a document goes.

What the dialects do is described in c4.py.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmtools.data.rules.characters import DECIMAL, PUNCTUATION, SPACE, TERMINAL
from llmtools.data.rules.utf8 import class_at, inside, strip, width_of
from llmtools.instructions import bits_in, copy_64, letter_bits, trailing_zeros
from llmtools.jit import inlined, kernel

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Kinds = npt.NDArray[np.uint16]

# Why a document goes, the first column of what is found.
NONE, LOREM_IPSUM, CURLY_BRACKET, SENTENCES, BY_JAVASCRIPT = range(5)
# Bits of phrases, in their order.
_LOREM, _JAVASCRIPT, _POLICY = 1, 2, 252
_ONE, _NO_BITS = np.uint64(1), np.uint64(0)
_DATATROVE, _DOLMA, _DCLM = 0, 1, 2


@inlined
def _count_words(
    buffer: Bytes, start: int, stop: int, index: Kinds, blocks: Kinds, enough: int
) -> int:
    """Words between white space; no more than `enough` are counted."""
    words = 0
    was_space = True
    i = start
    while i < stop and words < enough:
        found, width = class_at(buffer, i, index, blocks)
        is_space = found & SPACE != 0
        words += 1 if was_space and not is_space else 0
        was_space = is_space
        i += width
    return words


@kernel
def _longest_word(buffer: Bytes, start: int, stop: int, index: Kinds, blocks: Kinds) -> int:
    """The characters of the longest word."""
    longest, chars = 0, 0
    i = start
    while i < stop:
        found, width = class_at(buffer, i, index, blocks)
        chars = 0 if found & SPACE != 0 else chars + 1
        longest = max(longest, chars)
        i += width
    return longest


@inlined
def _count_sentences(buffer: Bytes, start: int, stop: int, index: Kinds, blocks: Kinds) -> int:
    """Sentences of a line, at least one."""
    sentences = 1
    after = start
    for block in range(start, stop, 64):
        # ! . ? and the first bytes of what is not ASCII; other characters end no sentence.
        marks = bits_in(buffer, block, 33, 33) | bits_in(buffer, block, 46, 46)
        marks |= bits_in(buffer, block, 63, 63) | bits_in(buffer, block, 0xC0, 0xFF)
        marks = inside(marks, stop - block)
        while marks != _NO_BITS:
            i = block + trailing_zeros(marks)
            marks &= marks - _ONE
            if i < after:
                continue
            found, width = class_at(buffer, i, index, blocks)
            if found & TERMINAL == 0:
                continue
            has_gap = width > 1
            after = i + width
            while after < stop:
                found, width = class_at(buffer, after, index, blocks)
                if found & TERMINAL != 0:
                    has_gap = width > 1
                elif found & SPACE != 0:
                    has_gap = True
                elif found & PUNCTUATION == 0:
                    sentences += 1 if has_gap else 0
                    break
                after += width
    return sentences


@kernel
def _is_phrase(buffer: Bytes, start: int, stop: int, phrase: Bytes) -> bool:
    """Whether a phrase stands at `start`, in any case of ASCII."""
    if start + phrase.size > stop:
        return False
    for k in range(phrase.size):
        b = buffer[start + k]
        if (b | 32 if 65 <= b <= 90 else b) != phrase[k]:
            return False
    return True


@inlined
def _phrases(
    buffer: Bytes, start: int, stop: int, phrases: Bytes, ends: Integers, rare: Integers
) -> tuple[int, bool]:
    """Which phrases stand in a line, one bit each, and whether a '{' does."""
    found = 0
    bracket = False
    for block in range(start, stop, 64):
        bracket = bracket or inside(bits_in(buffer, block, 123, 123), stop - block) != _NO_BITS
        for number in range(ends.size - 1):
            phrase = phrases[ends[number] : ends[number + 1]]
            place = rare[number]
            marks = letter_bits(buffer, block, phrase[0])
            marks &= letter_bits(buffer, block + place, phrase[place])
            marks = inside(marks, stop - block)
            while marks != _NO_BITS:
                i = block + trailing_zeros(marks)
                marks &= marks - _ONE
                if _is_phrase(buffer, i, stop, phrase):
                    found |= 1 << number
    return found, bracket


@kernel
def _citation(buffer: Bytes, i: int, stop: int, index: Kinds, blocks: Kinds) -> int:
    """Bytes of the citation mark that starts with the '[' at i; 0 where there is none."""
    for mark in (b"[edit]", b"[citation needed]"):
        k = 0
        while k < len(mark) and i + k < stop and buffer[i + k] == mark[k]:
            k += 1
        if k == len(mark):
            return k
    at = i + 1
    while at < stop:
        if buffer[at] == 93:
            return at + 1 - i
        found, width = class_at(buffer, at, index, blocks)
        if found & DECIMAL == 0:
            return 0
        at += width
    return 0


@inlined
def _ends_well(line: Bytes, start: int, stop: int, dialect: int) -> bool:
    """Whether a line ends as a sentence does; of DCLM's, white space at the end is gone."""
    if start == stop:
        return False
    c = line[stop - 1]
    is_mark = c == 46 or c == 63 or c == 33 or c == 34 or (c == 39 and dialect == _DATATROVE)
    is_dots = stop - start >= 3 and c == 46 and line[stop - 2] == 46 and line[stop - 3] == 46
    return bool(is_mark and not (is_dots and dialect != _DOLMA))


@inlined
def _next_line(
    buffer: Bytes, start: int, stop: int, index: Kinds, blocks: Kinds, dialect: int
) -> tuple[int, int]:
    """Where the line at `start` ends and the next one begins; `stop` + 1 where there is none."""
    for block in range(start, stop, 64):
        if dialect == _DATATROVE:
            # What str.splitlines cuts at: controls, U+0085, U+2028 and U+2029.
            marks = bits_in(buffer, block, 0xE2, 0xE2) & bits_in(buffer, block + 1, 0x80, 0x80)
            marks &= bits_in(buffer, block + 2, 0xA8, 0xA9)
            marks |= bits_in(buffer, block, 0xC2, 0xC2) & bits_in(buffer, block + 1, 0x85, 0x85)
            marks |= bits_in(buffer, block, 10, 13) | bits_in(buffer, block, 28, 30)
        else:
            marks = bits_in(buffer, block, 10, 10)
        marks = inside(marks, stop - block)
        if marks != _NO_BITS:
            i = block + trailing_zeros(marks)
            after = i + width_of(buffer[i])
            is_pair = buffer[i] == 13 and after < stop and buffer[after] == 10
            return i, after + 1 if is_pair else after
    return stop, stop + 1


@inlined
def _copy_line(
    buffer: Bytes,
    start: int,
    stop: int,
    index: Kinds,
    blocks: Kinds,
    removes: bool,
    out: Bytes,
    at: int,
) -> int:
    """Copy a line to out[at:], without citations where those go; returns where it ends."""
    i = start
    while i < stop:
        if removes and buffer[i] == 91:
            size = _citation(buffer, i, stop, index, blocks)
            i += size
            if size:
                continue
            out[at] = 91
            i += 1
            at += 1
        # What is copied beyond the next bracket or the end is written over.
        copy_64(out, at, buffer, i)
        size = min(stop - i, 64)
        if removes:
            brackets = inside(bits_in(buffer, i, 91, 91), size)
            size = min(size, trailing_zeros(brackets))
        i += size
        at += size
    return at


@kernel
def edit(
    buffer: Bytes,
    offsets: Integers,
    index: Kinds,
    blocks: Kinds,
    dialect: int,
    options: Integers,
    phrases: Bytes,
    phrase_ends: Integers,
    rare: Integers,
    out: Bytes,
    found: Integers,
) -> None:
    min_sentences, min_words, max_length = options[0], options[1], options[2]
    removes, needs_mark = options[3] != 0 and dialect != _DOLMA, options[4] != 0
    lorem, javascript, curly, policy = options[5], options[6], options[7], options[8]
    counts_all = options[9] != 0 or dialect == _DOLMA
    for d in range(offsets.size - 1):
        begin, stop = offsets[d], offsets[d + 1]
        origin = begin
        at = origin
        cause, sentences, lines, kept = NONE, 0, 0, 0
        while begin <= stop:
            end, next_begin = _next_line(buffer, begin, stop, index, blocks, dialect)
            if end == begin == stop and dialect == _DATATROVE:
                break
            lines += 1
            first, last = strip(buffer, begin, end, index, blocks)
            shown_first, shown_last = (first, last) if dialect == _DATATROVE else (begin, end)
            begin = next_begin
            if dialect != _DOLMA and last - first > max_length:
                if _longest_word(buffer, first, last, index, blocks) > max_length:
                    continue
            # The line goes behind what is kept; it stays there when all is well with it.
            line = at + 1 if kept else at
            line_end = _copy_line(
                buffer, shown_first, shown_last, index, blocks, removes, out, line
            )
            is_empty = dialect == _DCLM and line == line_end
            if dialect == _DOLMA and cause == NONE:
                has, bracket = _phrases(out, line, line_end, phrases, phrase_ends, rare)
                if curly and bracket:
                    cause = CURLY_BRACKET
                elif lorem and has & _LOREM:
                    cause = LOREM_IPSUM
                elif javascript and has & _JAVASCRIPT:
                    cause = BY_JAVASCRIPT
            mark_first, mark_last = line, line_end
            if dialect != _DATATROVE:
                mark_first, mark_last = strip(out, line, line_end, index, blocks)
            if not is_empty:
                if needs_mark and not _ends_well(out, mark_first, mark_last, dialect):
                    continue
                # DCLM counts words after citations went.
                if dialect == _DCLM:
                    words = _count_words(out, line, line_end, index, blocks, min_words)
                else:
                    words = _count_words(buffer, first, last, index, blocks, min_words)
                if words < min_words:
                    continue
                if dialect != _DOLMA:
                    has, bracket = _phrases(out, line, line_end, phrases, phrase_ends, rare)
                    if lorem and has & _LOREM:
                        cause = LOREM_IPSUM
                        break
                    if javascript and has & _JAVASCRIPT:
                        continue
                    if curly and bracket:
                        cause = CURLY_BRACKET
                        break
                    if policy and has & _POLICY:
                        continue
                if counts_all or sentences < min_sentences:
                    sentences += _count_sentences(out, line, line_end, index, blocks)
            if kept:
                out[at] = 10
            kept += 1
            at = line_end
        if cause == NONE and dialect != _DOLMA and sentences < min_sentences:
            cause = SENTENCES
        if cause == NONE and kept == 0:
            cause = SENTENCES
        first, last = strip(out, origin, at, index, blocks)
        found[d, 0], found[d, 1], found[d, 2], found[d, 3] = cause, sentences, lines, kept
        found[d, 4], found[d, 5] = first, last
