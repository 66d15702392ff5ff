"""The exact kernel of rule `repetition`: fractions of repeated blocks and n-grams of a batch.

What the dialects count is described in gopher_repetition.py.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmtools.data.rules.hash_counts import (
    Table,
    count_all,
    doubled,
    skip_some,
    slot_of,
    small_mask,
)
from llmtools.data.rules.repeated_blocks import duplicate_blocks
from llmtools.data.rules.utf8 import strip
from llmtools.data.rules.words import OPENS_ALNUM
from llmtools.jit import inlined, kernel

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int32]
Kinds = npt.NDArray[np.uint16]
Flags = npt.NDArray[np.bool_]
Fractions = npt.NDArray[np.float64]

_DATATROVE, _DOLMA, _DCLM = 0, 1, 2
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(31)
_ONE = np.uint64(1)


@kernel
def _top_chars(
    table: Table,
    mask: int,
    current: int,
    grams: Hashes,
    num_grams: int,
    n: int,
    ends: Integers,
    dialect: int,
) -> tuple[Table, int]:
    """Occurrences times length of the most frequent n-gram."""
    table, mask, best = count_all(table, mask, current, grams, num_grams)
    longest = 0
    if dialect == _DCLM and best == 1:
        return table, 0
    keys, rounds, counts = table
    for i in range(num_grams):
        if counts[slot_of(keys, rounds, mask, current, grams[i])] == best:
            longest = max(longest, ends[i + n] - ends[i])
            if dialect != _DCLM:
                break
    if dialect == _DATATROVE and best > 0:
        longest += n - 1
    return table, best * longest


@kernel
def _duplicate_chars(
    table: Table,
    mask: int,
    current: int,
    grams: Hashes,
    num_grams: int,
    n: int,
    ends: Integers,
    dialect: int,
) -> tuple[Table, int, int]:
    """Characters of repeated n-grams and of all of them."""
    total = 0
    every = 0
    if dialect == _DATATROVE:
        i = 0
        used = 0
        while i < num_grams:
            room = (mask + 1) // 2 - used
            if room <= (mask + 1) // 8:
                table, mask = doubled(table, mask, current)
                continue
            stop = min(num_grams, i + room)
            i, new, chars = skip_some(table[0], table[1], mask, current, grams, i, stop, n, ends)
            used += new
            total += chars
        return table, total, 0
    table, mask, _ = count_all(table, mask, current, grams, num_grams)
    covered = 0
    keys, rounds, counts = table
    for i in range(num_grams):
        length = ends[i + n] - ends[i]
        every += length
        if counts[slot_of(keys, rounds, mask, current, grams[i])] > 1:
            if dialect == _DOLMA:
                total += length
            else:
                covered = max(covered, i)
                total += ends[i + n] - ends[covered]
                covered = i + n
    return table, total, every


@inlined
def _all(flags: Flags) -> bool:
    for flag in flags:
        if not flag:
            return False
    return True


@kernel
def _take_words(
    buffer: Bytes,
    first: int,
    last: int,
    starts: Integers,
    hashes: Hashes,
    num_bytes: Counts,
    num_chars: Counts,
    kinds: Kinds,
    dialect: int,
    joins: bool,
    scratch: Hashes,
    ends: Integers,
) -> int:
    """Copy a document's words: hashes, polynomials and powers for joining, ends in characters.

    The hash of words written without separators follows from their polynomials in their bytes and
    the powers of its base to what follows them.
    """
    n = 0
    ends[0] = 0
    for i in range(first, last):
        if dialect == _DCLM and kinds[i] & OPENS_ALNUM == 0:
            continue
        scratch[0, n] = hashes[i]
        if joins and dialect == _DATATROVE:
            polynomial, power = np.uint64(0), _ONE
            for k in range(starts[i], starts[i] + num_bytes[i]):
                polynomial = polynomial * _BASE + np.uint64(buffer[k]) + _ONE
                power *= _BASE
            scratch[1, n], scratch[2, n] = polynomial, power
        ends[n + 1] = ends[n] + num_chars[i]
        n += 1
    return n


@kernel
def measure_repetition(
    buffer: Bytes,
    offsets: Integers,
    index: Kinds,
    blocks: Kinds,
    word_offsets: Integers,
    starts: Integers,
    hashes: Hashes,
    num_bytes: Counts,
    num_chars: Counts,
    kinds: Kinds,
    dialect: int,
    top: Integers,
    dup: Integers,
    limits: Fractions,
    scratch: Hashes,
    ends: Integers,
    slots: int,
    is_settled: Flags,
    out: Fractions,
) -> None:
    table = (np.empty(slots, np.uint64), np.zeros(slots, np.int32), np.zeros(slots, np.int32))
    current = 0
    for d in range(offsets.size - 1):
        start, stop = offsets[d], offsets[d + 1]
        if start == stop or _all(is_settled[d]):
            continue
        first, last = word_offsets[d], word_offsets[d + 1]
        text_chars = 0
        for i in range(start, stop):
            text_chars += 1 if buffer[i] & 0xC0 != 0x80 else 0
        beyond = False
        for kind in range(0 if is_settled[d, 0] else 2):
            begin, end = start, stop
            if dialect == _DATATROVE and kind == 0:
                begin, end = strip(buffer, start, stop, index, blocks)
            if dialect == _DOLMA and kind == 0:
                continue
            current += 1
            mask = small_mask(table, last - first)
            table, count, repeated, chars, all_chars = duplicate_blocks(
                buffer, begin, end, index, blocks, 2 - kind, dialect, table, mask, current
            )
            out[d, 0] = count
            if dialect == _DATATROVE:
                all_chars = text_chars
            elif dialect == _DOLMA:
                all_chars = 0
                for i in range(first, last):
                    all_chars += num_chars[i]
            if dialect == _DCLM and count <= 1:
                continue
            out[d, 1 + 2 * kind] = repeated / count
            out[d, 2 + 2 * kind] = chars / max(all_chars, 1)
            beyond = beyond or out[d, 1 + 2 * kind] > limits[1 + 2 * kind]
            beyond = beyond or out[d, 2 + 2 * kind] > limits[2 + 2 * kind]
        if beyond:
            continue
        n = _take_words(
            buffer,
            first,
            last,
            starts,
            hashes,
            num_bytes,
            num_chars,
            kinds,
            dialect,
            not _all(is_settled[d, 5 + top.size :]),
            scratch,
            ends,
        )
        word_chars = max(ends[n], 1)
        powers, grams = scratch[2], scratch[3]
        length = 0
        was_top = True
        for column in range(top.size + dup.size):
            if is_settled[d, 5 + column]:
                continue
            is_top = column < top.size
            wanted = top[column] if is_top else dup[column - top.size]
            # Words joined without separators follow from their polynomials.
            joins = dialect == _DATATROVE and not is_top
            own = scratch[1] if joins else scratch[0]
            if wanted < length or length == 0 or was_top != is_top:
                for i in range(n):
                    grams[i] = own[i]
                length = 1
            was_top = is_top
            while length < wanted:
                if joins:
                    for i in range(n - length):
                        grams[i] = grams[i] * powers[i + length] + own[i + length]
                else:
                    for i in range(n - length):
                        g = grams[i]
                        grams[i] = (g ^ (g >> _SHIFT)) * _MIX + own[i + length]
                length += 1
            num_grams = max(n - wanted + 1, 0)
            current += 1
            mask = small_mask(table, last - first)
            if is_top:
                table, chars = _top_chars(
                    table, mask, current, grams, num_grams, wanted, ends, dialect
                )
                every = word_chars
            else:
                table, chars, every = _duplicate_chars(
                    table, mask, current, grams, num_grams, wanted, ends, dialect
                )
                every = word_chars if dialect == _DCLM else max(every, 1)
            out[d, 5 + column] = chars / (text_chars if dialect == _DATATROVE else every)
            if out[d, 5 + column] > limits[5 + column]:
                break
