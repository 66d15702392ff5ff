"""Rule `repetition`: Gopher's table A1 (Rae et al. 2021), in three dialects.

    duplicate paragraph fraction             0.30
    duplicate paragraph character fraction   0.20
    duplicate line fraction                  0.30
    duplicate line character fraction        0.20
    top 2, 3, 4-gram character fraction      0.20 0.18 0.16
    duplicate 5 ... 10-gram character fr.    0.15 0.14 0.13 0.12 0.11 0.10

What is counted differs:

    datatrove 0.10.1    dolma 1.2.1 (gopher_v1)     DCLM
    paragraphs at \\n\\n+  none                        at \\n\\n, stripped, empty ones left out
    lines at \\n+         at \\n                       at \\n, stripped, empty ones left out
    repeats after the   all of a repeated block     as dolma; one block alone passes
    first are duplicate
    top: with spaces,   without; first of equals    without; longest of equals; once is 0
    first of equals
    dup: scan jumps     all occurrences of what     characters of words in any repeated n-gram
    over a repeat       comes twice
    n-grams compared    word by word                word by word; words that start with a letter
    without separators                              or digit only
    / all characters    / those of words (top), /   / those of words; blocks: / those of blocks
                        those of n-grams (dup)

Fast paths: `within_limits` for texts far from all limits, and a numba kernel over the hashes of
words. Readable reference: `repetition_reference`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.data.instructions import count_ones, load_8
from llmtools.data.rules.characters import SPACE, character_table
from llmtools.data.rules.repetition_bounds import within_limits
from llmtools.data.rules.rule import Check, Rule, Verdicts, verdicts
from llmtools.data.rules.settings import DIALECTS, Conventions, Dialect, RepetitionSettings
from llmtools.data.rules.words import OPENS_ALNUM, words_of
from llmtools.jit import inlined, kernel

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int32]
Kinds = npt.NDArray[np.uint16]
Flags = npt.NDArray[np.bool_]
Fractions = npt.NDArray[np.float64]
Table = tuple[Hashes, Counts, Counts]

# The kernel's first columns; one per top n-gram and one per duplicate n-gram follow.
COLUMNS = ("blocks", "dup_para_frac", "dup_para_char_frac", "dup_line_frac", "dup_line_char_frac")
# The order in which each dialect tries them.
ORDERS: dict[Dialect, tuple[str, ...]] = {
    "datatrove": COLUMNS,
    "dolma": COLUMNS[3:],
    "dclm": (COLUMNS[0], COLUMNS[3], COLUMNS[1], COLUMNS[4], COLUMNS[2]),
}

_DATATROVE, _DOLMA, _DCLM = 0, 1, 2
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_HALF = np.uint64(32)
_SHIFT = np.uint64(31)
_ONE = np.uint64(1)
_TOP_BITS = np.uint64(0x8080808080808080)
_LINE_FEED = 10
# Slots of the hash table at most to begin with: more are made when a long text needs them.
_SLOTS = 1 << 16


class RepetitionRule(Rule):
    """Drops what repeats itself."""

    def __init__(self, name: str, settings: RepetitionSettings, conventions: Conventions) -> None:
        self.name = name
        self.record = asdict(settings)
        self._top, self._dup = settings.top_n_grams, settings.dup_n_grams
        self._conventions = conventions
        names = list(COLUMNS) + [f"top_{n}_gram" for n, _ in self._top]
        names += [f"dup_{n}_grams" for n, _ in self._dup]
        order = list(ORDERS[conventions.dialect]) + names[len(COLUMNS) :]
        limits: list[float] = [1, *(getattr(settings, measure) for measure in COLUMNS[1:])]
        limits += [limit for _, limit in (*self._top, *self._dup)]
        self._limits = dict(zip(names, limits, strict=True))
        self._columns = [names.index(measure) for measure in order]
        self.checks = tuple(
            Check(
                rule=name,
                measure=measure,
                threshold=self._limits[measure],
                is_minimum=measure == "blocks",
            )
            for measure in order
        )

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        values = repetition(
            batch,
            [n for n, _ in self._top],
            [n for n, _ in self._dup],
            self._conventions,
            None if annotate else list(self._limits.values()),
        )
        return verdicts(values[:, self._columns], self.checks, annotate=annotate)


def repetition(
    batch: Batch,
    top: Sequence[int],
    dup: Sequence[int],
    conventions: Conventions,
    limits: Sequence[float] | None = None,
) -> Fractions:
    """Fractions (D, 5 + len(top) + len(dup)): COLUMNS, top n-grams, duplicate n-grams.

    An n-gram that a document is too short for has fraction 0. limits: one per column; what comes
    after a fraction beyond its limit is not measured and left 0, and so may be all that is within
    its limit; `blocks` is 1 then.
    """
    words = words_of(batch, conventions.words)
    out = np.zeros((len(batch.documents), len(COLUMNS) + len(top) + len(dup)))
    is_settled = np.zeros(out.shape, np.bool_)
    if limits is not None and conventions.dialect == "datatrove":
        is_settled = within_limits(batch, words, top, dup, limits)
        out[:, 0] = is_settled[:, 0]
        if is_settled.all():
            return out
    most = int(words.counts.max(initial=0, where=~is_settled.all(axis=1))) + 1
    index, blocks = character_table()
    _measure(
        batch.buffer,
        batch.offsets,
        index,
        blocks,
        words.offsets,
        words.starts,
        words.hashes,
        words.num_bytes,
        words.num_chars,
        words.kinds,
        DIALECTS.index(conventions.dialect),
        np.array(top, np.int64),
        np.array(dup, np.int64),
        np.full(out.shape[1], np.inf) if limits is None else np.array(limits, np.float64),
        np.empty((4, most), np.uint64),
        np.empty(most + 1, np.int64),
        min(_SLOTS, 64 << most.bit_length()),
        is_settled,
        out,
    )
    return out


@kernel
def _slot(keys: Hashes, rounds: Counts, mask: int, current: int, key: np.uint64) -> int:
    """Where `key` is, or would be put, in the hash table; slots of earlier rounds are free."""
    at = np.int64((key ^ (key >> _HALF)) & np.uint64(mask))
    while rounds[at] == current and keys[at] != key:
        at = (at + 1) & mask
    return int(at)


@kernel
def _mask(table: Table, words: int) -> int:
    """A small part of the table for a small text, so that it stays in the cache.

    An eighth full at most: on fuller ones the processor guesses wrong whether a slot is free.
    """
    slots = 64
    while slots < 8 * (words + 1) and slots < table[0].size:
        slots *= 2
    return slots - 1


@kernel
def _double(table: Table, mask: int, current: int) -> tuple[Table, int]:
    """The same entries in a table of twice the slots, and its mask."""
    keys, rounds, counts = table
    size = 2 * (mask + 1)
    wide = (np.empty(size, np.uint64), np.zeros(size, np.int32), np.zeros(size, np.int32))
    for at in range(mask + 1):
        if rounds[at] == current:
            to = _slot(wide[0], wide[1], size - 1, current, keys[at])
            wide[0][to], wide[1][to], wide[2][to] = keys[at], current, counts[at]
    return wide, size - 1


@kernel
def _count_some(
    keys: Hashes,
    rounds: Counts,
    counts: Counts,
    mask: int,
    current: int,
    grams: Hashes,
    first: int,
    last: int,
) -> tuple[int, int]:
    """Count some hashes; returns how many are new, and the highest count."""
    used = 0
    best = 0
    for i in range(first, last):
        at = _slot(keys, rounds, mask, current, grams[i])
        if rounds[at] == current:
            counts[at] += 1
            best = max(best, counts[at])
        else:
            keys[at], rounds[at], counts[at] = grams[i], current, 1
            used += 1
    return used, max(best, 1)


@kernel
def _skip_some(
    keys: Hashes,
    rounds: Counts,
    mask: int,
    current: int,
    grams: Hashes,
    first: int,
    last: int,
    n: int,
    ends: Integers,
) -> tuple[int, int, int]:
    """Go from n-gram to n-gram, over those that were there; returns where it stops.

    Then come how many were new, and the characters of the others.
    """
    used = 0
    chars = 0
    i = first
    while i < last:
        at = _slot(keys, rounds, mask, current, grams[i])
        if rounds[at] == current:
            chars += ends[i + n] - ends[i]
            i += n
        else:
            keys[at], rounds[at] = grams[i], current
            used += 1
            i += 1
    return i, used, chars


@kernel
def _count(table: Table, mask: int, current: int, grams: Hashes, n: int) -> tuple[Table, int, int]:
    """Count the first n hashes in the table; returns it, its mask, and the highest count."""
    used = 0
    best = 0
    i = 0
    while i < n:
        # Arrays in a tuple are counted references: the loops over hashes take them one by one, and
        # as many hashes as there is surely room for.
        room = (mask + 1) // 2 - used
        if room <= (mask + 1) // 8:
            table, mask = _double(table, mask, current)
            continue
        stop = min(n, i + room)
        new, most = _count_some(table[0], table[1], table[2], mask, current, grams, i, stop)
        used += new
        best = max(best, most)
        i = stop
    return table, mask, best


@kernel
def _is_space(buffer: Bytes, i: int, index: Kinds, blocks: Kinds) -> bool:
    """Whether white space starts at the character of byte i."""
    c = int(buffer[i])
    if c < 0x80:
        return bool(blocks[c] & SPACE != 0)
    # All white space is below U+10000 and takes two or three bytes.
    if c < 0xE0:
        code = (c & 0x1F) << 6 | (int(buffer[i + 1]) & 0x3F)
    elif c < 0xF0:
        code = (c & 0x0F) << 12 | (int(buffer[i + 1]) & 0x3F) << 6 | (int(buffer[i + 2]) & 0x3F)
    else:
        return False
    return bool(blocks[int(index[code >> 8]) * 256 + (code & 255)] & SPACE != 0)


@kernel
def _strip(buffer: Bytes, start: int, stop: int, index: Kinds, blocks: Kinds) -> tuple[int, int]:
    """The bytes that white space at both ends leaves (str.strip)."""
    while start < stop and _is_space(buffer, start, index, blocks):
        start += 1
        while start < stop and buffer[start] & 0xC0 == 0x80:
            start += 1
    while start < stop:
        last = stop - 1
        while buffer[last] & 0xC0 == 0x80:
            last -= 1
        if not _is_space(buffer, last, index, blocks):
            break
        stop = last
    return start, stop


@kernel
def _hash_block(buffer: Bytes, first: int, last: int) -> tuple[Any, int]:
    """A hash of some bytes of UTF-8, eight at a time, and how many characters they are."""
    x = np.uint64(0)
    continued: Any = 0
    i = first
    while i + 8 <= last:
        eight = load_8(buffer, i)
        x = (x ^ eight) * _BASE
        x ^= x >> _HALF
        # Bytes 10xxxxxx: the top bit and not the one below.
        continued += count_ones(eight & ~(eight << _ONE) & _TOP_BITS)
        i += 8
    while i < last:
        x = x * _BASE + np.uint64(buffer[i]) + _ONE
        continued += 1 if buffer[i] & 0xC0 == 0x80 else 0
        i += 1
    return x, last - first - continued


@kernel
def _duplicate_blocks(
    buffer: Bytes,
    start: int,
    stop: int,
    index: Kinds,
    blocks: Kinds,
    least: int,
    dialect: int,
    table: Table,
    mask: int,
    current: int,
) -> tuple[Table, int, int, int, int]:
    """Blocks, duplicate ones, their characters and those of all blocks; the table comes first.

    Blocks are cut at `least` or more line feeds; in dolma's dialect at each one.
    """
    num_blocks = 0
    num_duplicates = 0
    duplicate_chars = 0
    all_chars = 0
    begin = start
    while True:
        end = begin
        next_begin = stop + 1
        while end < stop:
            if buffer[end] == _LINE_FEED:
                feeds = 1
                while (
                    dialect != _DOLMA and end + feeds < stop and buffer[end + feeds] == _LINE_FEED
                ):
                    feeds += 1
                if feeds >= least:
                    next_begin = end + feeds
                    break
                end += feeds
            else:
                end += 1
        first, last = begin, end
        if dialect == _DCLM:
            first, last = _strip(buffer, begin, end, index, blocks)
        if dialect != _DCLM or first < last:
            x, chars = _hash_block(buffer, first, last)
            num_blocks += 1
            all_chars += chars
            keys, rounds, counts = table
            at = _slot(keys, rounds, mask, current, x)
            if rounds[at] == current:
                # Only datatrove lets the first of several be.
                times = 2 if dialect != _DATATROVE and counts[at] == 1 else 1
                num_duplicates += times
                duplicate_chars += times * chars
                counts[at] += 1
            else:
                keys[at], rounds[at], counts[at] = x, current, 1
                if 2 * num_blocks > mask:
                    table, mask = _double(table, mask, current)
        if next_begin > stop:
            return table, num_blocks, num_duplicates, duplicate_chars, all_chars
        begin = next_begin


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
    table, mask, best = _count(table, mask, current, grams, num_grams)
    longest = 0
    if dialect == _DCLM and best == 1:
        return table, 0
    keys, rounds, counts = table
    for i in range(num_grams):
        if counts[_slot(keys, rounds, mask, current, grams[i])] == best:
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
                table, mask = _double(table, mask, current)
                continue
            stop = min(num_grams, i + room)
            i, new, chars = _skip_some(table[0], table[1], mask, current, grams, i, stop, n, ends)
            used += new
            total += chars
        return table, total, 0
    table, mask, _ = _count(table, mask, current, grams, num_grams)
    covered = 0
    keys, rounds, counts = table
    for i in range(num_grams):
        length = ends[i + n] - ends[i]
        every += length
        if counts[_slot(keys, rounds, mask, current, grams[i])] > 1:
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
def _measure(
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
                begin, end = _strip(buffer, start, stop, index, blocks)
            if dialect == _DOLMA and kind == 0:
                continue
            current += 1
            mask = _mask(table, last - first)
            table, count, repeated, chars, all_chars = _duplicate_blocks(
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
            mask = _mask(table, last - first)
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


def _repeats(blocks: Sequence[str], dialect: Dialect, all_chars: int) -> list[float]:
    """The share of repeated blocks and that of their characters."""
    counts = Counter(blocks)
    if dialect == "datatrove":
        repeated = [b for i, b in enumerate(blocks) if b in blocks[:i]]
    else:
        repeated = [b for b in blocks if counts[b] > 1]
    return [len(repeated) / len(blocks), len("".join(repeated)) / max(all_chars, 1)]


def _repeated_grams(words: list[str], n: int, dialect: Dialect) -> float:
    """Characters in repeated n-grams; in dolma's dialect by those of all n-grams."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    if dialect == "datatrove":
        seen: set[str] = set()
        chars = 0
        i = 0
        while i < len(grams):
            gram = "".join(grams[i])
            chars += len(gram) if gram in seen else 0
            i += n if gram in seen else 1
            seen.add(gram)
        return chars
    counts = Counter(grams)
    if dialect == "dolma":
        every = sum(len("".join(g)) for g in grams)
        return sum(len("".join(g)) for g in grams if counts[g] > 1) / max(every, 1)
    repeated = {i + k for i, g in enumerate(grams) if counts[g] > 1 for k in range(n)}
    return sum(len(words[i]) for i in repeated)


def repetition_reference(
    text: str, words: list[str], top: Sequence[int], dup: Sequence[int], dialect: Dialect
) -> list[float]:
    """The same values of one text with these words, in plain Python."""
    if not text:
        return [0.0] * (len(COLUMNS) + len(top) + len(dup))
    if dialect == "dclm":
        words = [word for word in words if word[0].isalnum()]
    word_chars = len("".join(words))
    paragraphs, lines = re.split(r"\n{2,}", text.strip()), re.split(r"\n+", text)
    all_chars = [len(text)] * 2
    if dialect == "dolma":
        paragraphs, lines, all_chars = [], text.split("\n"), [word_chars] * 2
    elif dialect == "dclm":
        paragraphs = [p.strip() for p in text.split("\n\n") if p.strip()]
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        all_chars = [len("".join(paragraphs)), len("".join(lines))]
    out: list[float] = [len(lines)]
    for blocks, chars in zip((paragraphs, lines), all_chars, strict=True):
        is_too_few = len(blocks) < (2 if dialect == "dclm" else 1)
        out += [0.0, 0.0] if is_too_few else _repeats(blocks, dialect, chars)
    for n in top:
        counted = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        gram, count = counted.most_common(1)[0] if counted else ((), 0)
        chars = len(" ".join(gram) if dialect == "datatrove" else "".join(gram)) * count
        if dialect == "dclm":
            longest = max((len("".join(g)) for g, c in counted.items() if c == count), default=0)
            chars = longest * count if count > 1 else 0
        out.append(chars / (len(text) if dialect == "datatrove" else max(word_chars, 1)))
    divisors = {"datatrove": len(text), "dolma": 1, "dclm": max(word_chars, 1)}
    return out + [_repeated_grams(words, n, dialect) / divisors[dialect] for n in dup]
