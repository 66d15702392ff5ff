"""The words of a batch, once for all rules: where they are, their lengths, hashes and kinds.

    fast     what stands between white space (str.split)
    unicode  the segments of UAX #29 (Unicode's default word boundaries), cut at white space too;
             signs are words of their own, a run of one sign is one word, and in scripts that
             write no spaces (Han, Thai) a character is one

One numba kernel each, over UTF-8 bytes, 64 at a time where they are ASCII.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.data.rules.characters import ALNUM, ALPHA, PUNCTUATION, SPACE, character_table
from llmtools.data.rules.settings import Words
from llmtools.data.rules.utf8 import code_at, width_of
from llmtools.instructions import bits_in, load_8, trailing_zeros
from llmtools.jit import inlined, kernel

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int32]
Kinds = npt.NDArray[np.uint16]

# Flags of a word; ALPHA and ALNUM say that a character of it is one. SOLID: a character is not in
# datatrove's list of punctuation. SYMBOL: it holds '#' or '…'. OPENS_ALNUM: its first one is ALNUM.
SOLID = 1 << 11
SYMBOL = 1 << 12
OPENS_ALNUM = 1 << 13

_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_HALF = np.uint64(32)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_ONE = np.uint64(1)
_NONE = np.uint64(0)
_LETTER = ALPHA | ALNUM | SOLID | OPENS_ALNUM
_KEPT = ALPHA | ALNUM
_SMALL_BATCH = 1 << 23
_EXTEND, _ZWJ, _FORMAT, _REGIONAL, _KATAKANA, _HEBREW, _ALETTER = 4, 5, 6, 7, 8, 9, 10
_SINGLE_QUOTE, _DOUBLE_QUOTE, _MID_NUM_LET, _MID_LETTER, _MID_NUM = 11, 12, 13, 14, 15
_NUMERIC, _EXTEND_NUM_LET = 16, 17
# States after a sign that joins what stands on both of its sides, and after no word.
_IN_LETTERS, _IN_NUMBER, _NOTHING = 19, 20, 21
_PICTURE = 1 << 14


@dataclass(frozen=True, slots=True)
class WordTable:
    """The N words of D documents.

    offsets: (D + 1,), document d has the words offsets[d] : offsets[d + 1]. starts: (N,), byte in
    the batch's buffer. num_bytes, num_chars, hashes, kinds: (N,).
    """

    offsets: Integers
    starts: Integers
    num_bytes: Lengths
    num_chars: Lengths
    hashes: Hashes
    kinds: Kinds

    @property
    def counts(self) -> Integers:
        """Words of each document, (D,)."""
        return np.diff(self.offsets)


def words_of(batch: Batch, words: Words) -> WordTable:
    """The words of a batch; found once and kept with it."""
    key = f"words {words}"
    if key not in batch.memo:
        batch.memo[key] = _find(batch, words == "unicode")
    table: WordTable = batch.memo[key]
    return table


def word_counts(batch: Batch, words: Words) -> Integers:
    """The words of each document, (D,), where nothing else of them may be needed."""
    key = f"words {words}"
    if key in batch.memo:
        return words_of(batch, words).counts
    index, blocks = character_table()
    offsets = np.zeros(batch.offsets.size, np.int64)
    split: Callable[..., None] = _split_by_class if words == "unicode" else _split_at_space
    split(batch.buffer, batch.offsets, index, blocks, False, offsets, *_room(0))
    counts: Integers = np.diff(offsets)
    return counts


def _find(batch: Batch, is_unicode: bool) -> WordTable:
    index, blocks = character_table()
    given = (batch.buffer, batch.offsets, index, blocks)
    split: Callable[..., None] = _split_by_class if is_unicode else _split_at_space
    offsets = np.zeros(batch.offsets.size, np.int64)
    size = batch.buffer.size if is_unicode else batch.buffer.size // 2 + batch.offsets.size
    if batch.buffer.size > _SMALL_BATCH:
        # One long text: its words are counted before room for as many as there might be is taken.
        split(*given, False, offsets, *_room(0))
        size = int(offsets[-1])
    room = _room(size)
    split(*given, True, offsets, *room)
    n = int(offsets[-1])
    starts, num_bytes, num_chars, hashes, kinds = room
    return WordTable(offsets, starts[:n], num_bytes[:n], num_chars[:n], hashes[:n], kinds[:n])


def _room(size: int) -> tuple[Integers, Lengths, Lengths, Hashes, Kinds]:
    return (
        np.empty(size, np.int64),
        np.empty(size, np.int32),
        np.empty(size, np.int32),
        np.empty(size, np.uint64),
        np.empty(size, np.uint16),
    )


@kernel
def _peek(buffer: Bytes, i: int, stop: int, index: Kinds, blocks: Kinds) -> int:
    """The Word_Break class of the next character that is not Extend, Format or ZWJ; 0 at the end.

    A sequence of those is looked through once for each sign before it, so the cost is linear.
    """
    while i < stop:
        width = width_of(buffer[i])
        code = code_at(buffer, i, width)
        found = int(blocks[int(index[code >> 8]) * 256 + (code & 255)]) & 31
        if not _EXTEND <= found <= _FORMAT:
            return found
        i += width
    return 0


@kernel
def _joins(last: int, found: int, ahead: int) -> int:
    """The state after `found` where it continues a word that is in the state `last`, else -1.

    ahead: the class after `found`, looked up only where a sign might stand between two halves.
    Rules WB5 to WB16 of UAX #29; those on white space do not matter here.
    """
    is_letter = found == _ALETTER or found == _HEBREW
    if last == _ALETTER or last == _HEBREW:
        if is_letter or found == _NUMERIC or found == _EXTEND_NUM_LET:
            return found
        is_mid = found == _MID_LETTER or found == _MID_NUM_LET or found == _SINGLE_QUOTE
        if is_mid and (ahead == _ALETTER or ahead == _HEBREW):
            return _IN_LETTERS
        if last == _HEBREW and found == _SINGLE_QUOTE:
            return found
        if last == _HEBREW and found == _DOUBLE_QUOTE and ahead == _HEBREW:
            return _IN_LETTERS
    elif last == _NUMERIC:
        if is_letter or found == _NUMERIC or found == _EXTEND_NUM_LET:
            return found
        is_mid = found == _MID_NUM or found == _MID_NUM_LET or found == _SINGLE_QUOTE
        if is_mid and ahead == _NUMERIC:
            return _IN_NUMBER
    elif last == _IN_LETTERS or last == _IN_NUMBER:
        return found
    elif last == _KATAKANA:
        if found == _KATAKANA or found == _EXTEND_NUM_LET:
            return found
    elif last == _EXTEND_NUM_LET:
        if is_letter or found == _NUMERIC or found == _KATAKANA or found == _EXTEND_NUM_LET:
            return found
    elif last == _REGIONAL and found == _REGIONAL:
        return 0
    return -1


@inlined
def _hash(buffer: Bytes, start: int, size: int) -> np.uint64:
    """A hash of the bytes of a word, eight at a time."""
    x = np.uint64(size) * _MIX
    i = start
    while size > 16:
        x = (x ^ load_8(buffer, i)) * _BASE
        x ^= x >> _HALF
        i += 8
        size -= 8
    # Two for most words, the second of none where there are no more than eight: no branch to guess.
    first = min(size, 8)
    second = size - first
    half = np.uint64(4 * second)
    # In two steps: shifted by 64 bits at once it would stay what it is.
    rest = load_8(buffer, i + 8) & (((_ONE << half) << half) - _ONE)
    x = (x ^ (load_8(buffer, i) & (_ALL >> np.uint64(64 - 8 * first)))) * _BASE
    x = (x ^ (x >> _HALF) ^ rest) * _BASE
    return np.uint64(x ^ (x >> _HALF))


@inlined
def _flags(buffer: Bytes, start: int, stop: int, index: Kinds, blocks: Kinds) -> int:
    """The flags of a word but for SYMBOL."""
    if buffer[start] < 0x80 and blocks[buffer[start]] & ALPHA != 0:
        return _LETTER
    flags = 0
    i = start
    while i < stop and flags & (_KEPT | SOLID) != _KEPT | SOLID:
        width = width_of(buffer[i])
        code = code_at(buffer, i, width)
        found = int(blocks[int(index[code >> 8]) * 256 + (code & 255)])
        flags |= found & _KEPT
        flags |= SOLID if found & PUNCTUATION == 0 else 0
        flags |= OPENS_ALNUM if i == start and found & ALNUM != 0 else 0
        i += width
    return flags


@kernel
def _split_at_space(
    buffer: Bytes,
    text_offsets: Integers,
    index: Kinds,
    blocks: Kinds,
    writes: bool,
    offsets: Integers,
    starts: Integers,
    num_bytes: Lengths,
    num_chars: Lengths,
    hashes: Hashes,
    kinds: Kinds,
) -> None:
    n = 0
    for d in range(text_offsets.size - 1):
        begin, stop = text_offsets[d], text_offsets[d + 1]
        block = begin
        continued, symbol = 0, 0
        while block <= stop:
            # Only at these bytes does anything happen: controls and the space, '#', and the first
            # of those of a character that is not ASCII. The end of the text is one more.
            marks = bits_in(buffer, block, 0, 32) | bits_in(buffer, block, 0xC0, 0xFF)
            marks |= bits_in(buffer, block, 35, 35)
            if stop - block < 64:
                end = _ONE << np.uint64(stop - block)
                marks = (marks & (end - _ONE)) | end
            while marks != _NONE:
                i = block + trailing_zeros(marks)
                marks &= marks - _ONE
                width = 1
                if i < stop:
                    c = buffer[i]
                    if c < 0x80:
                        if blocks[c] & SPACE == 0:
                            symbol |= SYMBOL if c == 35 else 0
                            continue
                    else:
                        width = width_of(c)
                        code = code_at(buffer, i, width)
                        if blocks[int(index[code >> 8]) * 256 + (code & 255)] & SPACE == 0:
                            symbol |= SYMBOL if code == 0x2026 else 0
                            continued += width - 1
                            continue
                if i > begin:
                    if writes:
                        starts[n] = begin
                        num_bytes[n] = i - begin
                        num_chars[n] = i - begin - continued
                        hashes[n] = _hash(buffer, begin, i - begin)
                        kinds[n] = _flags(buffer, begin, i, index, blocks) | symbol
                    n += 1
                    continued, symbol = 0, 0
                begin = i + width
            block += 64
        offsets[d + 1] = n


@kernel
def _split_by_class(
    buffer: Bytes,
    text_offsets: Integers,
    index: Kinds,
    blocks: Kinds,
    writes: bool,
    offsets: Integers,
    starts: Integers,
    num_bytes: Lengths,
    num_chars: Lengths,
    hashes: Hashes,
    kinds: Kinds,
) -> None:
    n = 0
    for d in range(text_offsets.size - 1):
        i, stop = text_offsets[d], text_offsets[d + 1]
        begin = i
        last = _NOTHING
        flags = 0
        chars = 0
        code, before, was_joiner = 0, 0, False
        while True:
            width = 1
            found = 0
            is_end = i >= stop
            if not is_end:
                c = buffer[i]
                if c < 0x80:
                    code = int(c)
                    found = int(blocks[c])
                else:
                    width = width_of(c)
                    code = code_at(buffer, i, width)
                    found = int(blocks[int(index[code >> 8]) * 256 + (code & 255)])
                is_end = found & SPACE != 0
            state = last
            is_cut = is_end
            if not is_end:
                kind = found & 31
                if last == _NOTHING:
                    state = 0 if _EXTEND <= kind <= _FORMAT else kind
                elif _EXTEND <= kind <= _FORMAT or (was_joiner and found & _PICTURE != 0):
                    state = last
                    if not _EXTEND <= kind <= _FORMAT:
                        state = 0
                else:
                    ahead = 0
                    if _SINGLE_QUOTE <= kind <= _MID_NUM:
                        ahead = _peek(buffer, i + width, stop, index, blocks)
                    state = _joins(last, kind, ahead)
                    # A run of one sign is one word.
                    is_same = code == before and found & ALNUM == 0 and kind != _REGIONAL
                    if state < 0 and is_same and flags & ALNUM == 0:
                        state = kind
                    is_cut = state < 0
                    if is_cut:
                        state = kind
                was_joiner = kind == _ZWJ
            if is_cut and chars > 0:
                if writes:
                    starts[n] = begin
                    num_bytes[n] = i - begin
                    num_chars[n] = chars
                    hashes[n] = _hash(buffer, begin, i - begin)
                    kinds[n] = flags
                n += 1
                chars = 0
            if is_end:
                if i >= stop:
                    break
                i += width
                last = _NOTHING
                was_joiner = False
                continue
            if chars == 0:
                begin = i
                flags = OPENS_ALNUM if found & ALNUM != 0 else 0
            last = state
            before = code
            chars += 1
            flags |= found & _KEPT
            if found & PUNCTUATION == 0:
                flags |= SOLID
            if code == 35 or code == 0x2026:
                flags |= SYMBOL
            i += width
            if last == _ALETTER:
                # Most of a text: ASCII letters after a letter, which need no look at the rules.
                run = i
                while i < stop:
                    others = ~(bits_in(buffer, i, 65, 90) | bits_in(buffer, i, 97, 122))
                    i += trailing_zeros(others)
                    if others != _NONE:
                        break
                i = min(i, stop)
                if i > run:
                    chars += i - run
                    flags |= _KEPT | SOLID
                    was_joiner = False
        offsets[d + 1] = n
