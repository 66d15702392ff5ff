"""Paragraphs and lines of a text that repeat, as rule `repetition` counts them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.data.rules.hash_counts import Table, doubled, slot_of
from llmtools.data.rules.utf8 import next_line_feed, strip
from llmtools.instructions import count_ones, load_8
from llmtools.jit import kernel

Bytes = npt.NDArray[np.uint8]
Kinds = npt.NDArray[np.uint16]

_DATATROVE, _DOLMA, _DCLM = 0, 1, 2
_BASE = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_ONE = np.uint64(1)
_TOP_BITS = np.uint64(0x8080808080808080)
_LINE_FEED = 10


@kernel
def hash_block(buffer: Bytes, first: int, last: int) -> tuple[Any, int]:
    """A hash of some bytes of UTF-8, eight at a time, and how many characters they are."""
    x = np.uint64(last - first) * _BASE
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
def duplicate_blocks(
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
            end = next_line_feed(buffer, end, stop)
            if end == stop:
                break
            feeds = 1
            while dialect != _DOLMA and end + feeds < stop and buffer[end + feeds] == _LINE_FEED:
                feeds += 1
            if feeds >= least:
                next_begin = end + feeds
                break
            end += feeds
        first, last = begin, end
        if dialect == _DCLM:
            first, last = strip(buffer, begin, end, index, blocks)
        if dialect != _DCLM or first < last:
            x, chars = hash_block(buffer, first, last)
            num_blocks += 1
            all_chars += chars
            keys, rounds, counts = table
            at = slot_of(keys, rounds, mask, current, x)
            if rounds[at] == current:
                # Only datatrove lets the first of several be.
                times = 2 if dialect != _DATATROVE and counts[at] == 1 else 1
                num_duplicates += times
                duplicate_chars += times * chars
                counts[at] += 1
            else:
                keys[at], rounds[at], counts[at] = x, current, 1
                if 2 * num_blocks > mask:
                    table, mask = doubled(table, mask, current)
        if next_begin > stop:
            return table, num_blocks, num_duplicates, duplicate_chars, all_chars
        begin = next_begin
