"""Rules on lines: `fineweb` (Penedo et al. 2024) and `c4-paragraphs` (mC4), as in datatrove 0.10.1.

    fineweb         lines that end in a closing mark, short lines, repeated lines, line feeds
    c4-paragraphs   at least three lines of 200 characters

Lines end at line feeds. For fineweb those of white space alone do not count.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.data.rules.characters import TERMINAL, character_table
from llmtools.data.rules.repeated_blocks import hash_block
from llmtools.data.rules.rule import Check, Rule, Values, Verdicts, verdicts
from llmtools.data.rules.settings import C4ParagraphSettings, Conventions, FineWebSettings
from llmtools.data.rules.utf8 import class_at, next_line_feed, strip
from llmtools.data.rules.words import word_counts
from llmtools.jit import kernel

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Kinds = npt.NDArray[np.uint16]
Hashes = npt.NDArray[np.uint64]
Rounds = npt.NDArray[np.int32]

COLUMNS = ("lines", "closed", "short", "duplicate_chars", "chars", "line_feeds", "long")
_HALF = np.uint64(32)


class FineWebRule(Rule):
    """Drops lists, menus and what repeats its lines."""

    def __init__(self, name: str, settings: FineWebSettings, conventions: Conventions) -> None:
        self.name = name
        self.record = asdict(settings)
        self._settings = settings
        self._conventions = conventions
        limits = {
            "lines": 1,
            "line_punct_ratio": settings.line_punct_thr,
            "short_line_ratio": settings.short_line_thr,
            "char_duplicates_ratio": settings.char_duplicates_ratio,
            "new_line_ratio": settings.new_line_ratio,
        }
        self.checks = tuple(
            Check(
                rule=name,
                measure=measure,
                threshold=limit,
                is_minimum=measure in ("lines", "line_punct_ratio"),
            )
            for measure, limit in limits.items()
        )

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        found = line_counts(batch, self._settings.short_line_length)
        words = word_counts(batch, self._conventions.words)
        closed = found["closed"] / np.maximum(found["lines"], 1)
        judged = closed.copy()
        if self._settings.line_punct_exclude_zero:
            judged[found["closed"] == 0] = np.inf
        values = np.stack(
            [
                found["lines"],
                judged,
                found["short"] / np.maximum(found["lines"], 1),
                found["duplicate_chars"] / np.maximum(found["chars"], 1),
                found["line_feeds"] / np.maximum(words, 1),
            ],
            axis=1,
        )
        result = verdicts(values, self.checks, annotate=annotate)
        for row, measured in enumerate(result.measures):
            measured["line_punct_ratio"] = float(closed[row])
        return result


class C4ParagraphRule(Rule):
    """Drops what has too few long lines."""

    def __init__(self, name: str, settings: C4ParagraphSettings, conventions: Conventions) -> None:
        self.name = name
        self.record = asdict(settings)
        self._length = settings.min_paragraph_length
        self.checks = (
            Check(
                rule=name, measure="paragraphs", threshold=settings.min_paragraphs, is_minimum=True
            ),
        )

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        long = line_counts(batch, 0, self._length)["long"]
        return verdicts(long[:, None], self.checks, annotate=annotate)


def line_counts(batch: Batch, short: int, long: int = 0) -> dict[str, Values]:
    """COLUMNS of every document, (D,) each.

    short: characters of a short line at most. long: characters of a long line at least, where lines
    of white space alone count too.
    """
    index, blocks = character_table()
    out = np.zeros((len(COLUMNS), len(batch.documents)))
    _count_lines(batch.buffer, batch.offsets, index, blocks, short, long, out)
    return dict(zip(COLUMNS, out, strict=True))


@kernel
def _insert(keys: Hashes, rounds: Rounds, mask: int, current: int, key: np.uint64) -> bool:
    """Put a hash into the table; whether it was there before."""
    at = np.int64((key ^ (key >> _HALF)) & np.uint64(mask))
    while rounds[at] == current and keys[at] != key:
        at = (at + 1) & mask
    was_there = rounds[at] == current
    keys[at], rounds[at] = key, current
    return bool(was_there)


@kernel
def _count_lines(
    buffer: Bytes,
    offsets: Integers,
    index: Kinds,
    blocks: Kinds,
    short: int,
    long: int,
    out: Values,
) -> None:
    keys, rounds = np.empty(64, np.uint64), np.zeros(64, np.int32)
    for d in range(offsets.size - 1):
        start, stop = offsets[d], offsets[d + 1]
        feeds = 0
        for i in range(start, stop):
            feeds += 1 if buffer[i] == 10 else 0
        mask = 63
        while mask < 2 * (feeds + 1):
            mask = 2 * mask + 1
        if mask >= keys.size:
            keys, rounds = np.empty(mask + 1, np.uint64), np.zeros(mask + 1, np.int32)
        lines, closed, shorts, duplicate_chars, all_chars, longs = 0, 0, 0, 0, 0, 0
        begin = start
        while begin <= stop:
            end = next_line_feed(buffer, begin, stop)
            hashed, chars = hash_block(buffer, begin, end)
            all_chars += chars
            longs += 1 if chars >= long else 0
            first, _ = strip(buffer, begin, end, index, blocks)
            if first < end:
                last = end - 1
                while buffer[last] & 0xC0 == 0x80:
                    last -= 1
                lines += 1
                closed += 1 if class_at(buffer, last, index, blocks)[0] & TERMINAL != 0 else 0
                shorts += 1 if chars <= short else 0
                duplicate_chars += chars if _insert(keys, rounds, mask, d + 1, hashed) else 0
            begin = end + 1
        counts = (lines, closed, shorts, duplicate_chars, all_chars, feeds, longs)
        for column in range(7):
            out[column, d] = counts[column]
