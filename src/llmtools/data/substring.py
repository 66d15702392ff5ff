"""Exact substring deduplication (Lee et al. 2022) without a suffix array.

A window of `min_bytes` bytes is a copy when the same bytes stand in an earlier document, or in the
same one and end before it begins; what copies cover is cut out, to whole characters. So of a text
of one repeated character the first `min_bytes` stay, and of a longer passage the first occurrence.
Windows never reach across documents.

1. Anchors (winnowing: Schleimer, Wilkerson and Aiken 2003): of each window the least hash of the
   k = min_bytes / 2 bytes at any place in it, the last of several. Equal windows have equal
   anchors, and neighbouring windows mostly share one: about one anchor is left in k / 2 bytes.
2. Windows whose anchor's hash occurs once have no copy. The others are looked up in a hash table of
   first occurrences by a rolling hash, and compared byte by byte.

Time is linear in the text. Memory, besides the text itself: 16 bytes an anchor while it is read, 40
while anchors are compared, then 11 to 22 bytes for each window that is looked up, that is, for each
byte of repeated text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmtools.errors import UsageError
from llmtools.jit import kernel

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Spans = npt.NDArray[np.int64]

_BASE = np.uint64(0x9FB21C651E98DF25)
_MIX_A = np.uint64(0x9E3779B97F4A7C15)
_MIX_B = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(32)
# An entry of the table: 24 bits of the hash, 40 of the place + 1.
_PLACE_MASK = np.uint64((1 << 40) - 1)
_NO_ANCHOR = np.uint64(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubstringSettings:
    """min_bytes: how long a repeated span is at least, in bytes of UTF-8."""

    min_bytes: int = 100

    def __post_init__(self) -> None:
        if self.min_bytes < 1:
            raise UsageError(f"min_bytes is {self.min_bytes}; it must be at least 1")

    @property
    def anchor_bytes(self) -> int:
        return max(self.min_bytes // 2, 1)


class SubstringFinder:
    """Holds a whole corpus, and then says what to cut out of each text."""

    reads_twice = True

    def __init__(self, settings: SubstringSettings) -> None:
        self.settings = settings
        self._text = bytearray()
        self._offsets = [0]
        self._anchors = [np.empty(0, np.uint64)]
        self._starts = [np.empty(0, np.int64)]
        self._found: Spans | None = None
        self._num_answered = 0

    def learn(self, texts: Sequence[str]) -> None:
        """Take some texts of the corpus, in order."""
        encoded = [text.encode() for text in texts]
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        joined = b"".join(encoded)
        anchors, starts = find_anchors(np.frombuffer(joined, np.uint8), offsets, self.settings)
        self._anchors.append(anchors)
        self._starts.append(starts + len(self._text))
        self._offsets += (offsets[1:] + len(self._text)).tolist()
        self._text += joined

    def spans(self, texts: Sequence[str]) -> list[Spans]:
        """For the next texts, in the order learned, (k, 2) start and stop in characters."""
        if self._found is None:
            self._found = self._find()
        out = []
        for text in texts:
            start, stop = self._offsets[self._num_answered : self._num_answered + 2]
            self._num_answered += 1
            first, last = np.searchsorted(self._found[:, 0], [start, stop])
            own = self._found[first:last] - start
            if own.size:
                own = whole_characters(own, np.frombuffer(self._text, np.uint8)[start:stop])
            out.append(own if len(text) == stop - start else _in_characters(own, text))
        return out

    def _find(self) -> Spans:
        offsets = np.array(self._offsets, np.int64)
        anchors, starts = np.concatenate(self._anchors), np.concatenate(self._starts)
        self._anchors, self._starts = [], []
        runs = _runs(anchors, starts)
        del anchors, starts
        return find_copies(np.frombuffer(self._text, np.uint8), offsets, runs, self.settings)


def find_anchors(
    buffer: Bytes, offsets: Places, settings: SubstringSettings
) -> tuple[Words, Places]:
    """Anchors of all windows, in order: hashes, and the first window that each is the anchor of.

    A hash of 0 says that no window begins from there to the next entry. Of more than two in a row
    with equal hashes, only two are listed, as all that is asked is whether a hash is repeated.
    """
    width = settings.min_bytes - settings.anchor_bytes + 1
    hashes = np.empty(buffer.size + offsets.size, np.uint64)
    starts = np.empty(buffer.size + offsets.size, np.int64)
    count = _find_anchors(buffer, offsets, settings.anchor_bytes, width, hashes, starts)
    return hashes[:count].copy(), starts[:count].copy()


def _runs(anchors: Words, starts: Places) -> Spans:
    """Runs of windows whose anchors are repeated, (n, 2) first window and the one after the last.

    Memory is why this is not np.unique with inverse and counts.
    """
    ordered = np.sort(anchors)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    del ordered
    repeated = np.append(repeated[repeated != _NO_ANCHOR], np.uint64(2**64 - 1))
    is_repeated = repeated[np.searchsorted(repeated, anchors)] == anchors
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_repeated, [False]])))
    # The last entry of each document is no anchor, so that every run has an entry behind it.
    return np.stack([starts[edges[::2]], starts[edges[1::2]]], axis=1)


def find_copies(buffer: Bytes, offsets: Places, runs: Spans, settings: SubstringSettings) -> Spans:
    """What copies cover, (n, 2) start and stop in bytes, in order, disjoint, none across documents.

    runs: the windows to look at, as first window and the one after the last.
    """
    num_windows = int((runs[:, 1] - runs[:, 0]).sum())
    table = np.zeros(1 << max(int(1.4 * num_windows).bit_length(), 4), np.uint64)
    out = np.empty((buffer.size // settings.min_bytes + 1, 2), np.int64)
    count = _find_copies(buffer, offsets, runs, settings.min_bytes, table, out)
    return out[:count]


def whole_characters(spans: Spans, text: Bytes) -> Spans:
    """Spans without the characters of a text that they hold only a part of; empty ones left out."""
    out = []
    for start, stop in spans.tolist():
        while start < stop and text[start] & 0xC0 == 0x80:
            start += 1
        while start < stop < len(text) and text[stop] & 0xC0 == 0x80:
            stop -= 1
        if start < stop:
            out.append((start, stop))
    return np.array(out, np.int64).reshape(-1, 2)


def _in_characters(spans: Spans, text: str) -> Spans:
    """Spans in bytes of the text's UTF-8 as spans in its characters."""
    if not spans.size:
        return spans
    encoded = np.frombuffer(text.encode(), np.uint8)
    before = np.zeros(encoded.size + 1, np.int64)
    np.cumsum((encoded & 0xC0) != 0x80, out=before[1:])
    return before[spans]


@kernel
def _mixed(x: np.uint64) -> np.uint64:
    x = (x ^ (x >> _SHIFT)) * _MIX_A
    x = (x ^ (x >> _SHIFT)) * _MIX_B
    return x ^ (x >> _SHIFT)


@kernel
def _power(exponent: int) -> np.uint64:
    out = np.uint64(1)
    for _ in range(exponent):
        out *= _BASE
    return out


@kernel
def _find_anchors(
    buffer: Bytes, offsets: Places, size: int, width: int, hashes: Words, starts: Places
) -> int:
    oldest = _power(size)
    ring = np.empty(width, np.uint64)
    count = 0
    for d in range(offsets.size - 1):
        own = buffer[offsets[d] : offsets[d + 1]]
        if own.size < size + width - 1:
            continue
        rolling = np.uint64(0)
        for i in range(size):
            rolling = rolling * _BASE + np.uint64(own[i])
        first = count
        least = np.uint64(0)
        at = -1
        listed_at = -1
        for i in range(own.size - size + 1):
            if i > 0:
                rolling = rolling * _BASE + np.uint64(own[i + size - 1])
                rolling -= oldest * np.uint64(own[i - 1])
            x = _mixed(rolling) | np.uint64(1)
            ring[i % width] = x
            if at < 0 or x <= least:
                least, at = x, i
            elif at <= i - width:
                least, at = x, i
                for j in range(i - 1, i - width, -1):
                    if ring[j % width] < least:
                        least, at = ring[j % width], j
            if i >= width - 1 and at != listed_at:
                listed_at = at
                is_third = (
                    count - first >= 2 and hashes[count - 1] == least and hashes[count - 2] == least
                )
                if not is_third:
                    hashes[count] = least
                    starts[count] = offsets[d] + i - width + 1
                    count += 1
        hashes[count] = _NO_ANCHOR
        starts[count] = offsets[d + 1] - size - width + 2
        count += 1
    return count


@kernel
def _is_same(buffer: Bytes, a: int, b: int, size: int) -> np.bool_:
    # No early exit: this way LLVM compares 32 bytes at a time.
    x = buffer[a : a + size]
    y = buffer[b : b + size]
    differs = np.uint8(0)
    for i in range(size):
        differs |= x[i] ^ y[i]
    return np.bool_(differs == 0)


@kernel
def _find_copies(
    buffer: Bytes, offsets: Places, runs: Spans, size: int, table: Words, out: Spans
) -> int:
    oldest = _power(size)
    mask = np.uint64(table.size - 1)
    count = 0
    d = 0
    for r in range(len(runs)):
        first = runs[r, 0]
        while offsets[d + 1] <= first:
            d += 1
        rolling = np.uint64(0)
        for i in range(first, first + size):
            rolling = rolling * _BASE + np.uint64(buffer[i])
        last_match = -2
        for q in range(first, runs[r, 1]):
            if q > first:
                rolling = rolling * _BASE + np.uint64(buffer[q + size - 1])
                rolling -= oldest * np.uint64(buffer[q - 1])
            x = _mixed(rolling)
            tag = x & ~_PLACE_MASK
            slot = x & mask
            match = -2
            while table[slot] != 0:
                entry = table[slot]
                if (entry & ~_PLACE_MASK) == tag:
                    p = int(entry & _PLACE_MASK) - 1
                    # The window before was the same as p - 1: only the last byte is new.
                    is_next = p == last_match + 1
                    if is_next and buffer[p + size - 1] == buffer[q + size - 1]:
                        match = p
                        break
                    if not is_next and _is_same(buffer, p, q, size):
                        match = p
                        break
                slot = (slot + np.uint64(1)) & mask
            last_match = match
            if match < 0:
                table[slot] = tag | np.uint64(q + 1)
            elif q - match >= size:
                if count > 0 and q <= out[count - 1, 1] and q > offsets[d]:
                    out[count - 1, 1] = q + size
                else:
                    out[count, 0] = q
                    out[count, 1] = q + size
                    count += 1
    return count


def copies_reference(texts: Sequence[bytes], min_bytes: int) -> Iterator[list[bool]]:
    """For each text which bytes are cut out, by looking at every earlier window."""
    first: dict[bytes, tuple[int, int]] = {}
    for number, text in enumerate(texts):
        is_cut = [False] * len(text)
        for q in range(len(text) - min_bytes + 1):
            where, p = first.setdefault(text[q : q + min_bytes], (number, q))
            if where < number or p + min_bytes <= q:
                is_cut[q : q + min_bytes] = [True] * min_bytes
        for at in range(len(text)):
            # A character goes as a whole or stays as a whole.
            if text[at] & 0xC0 != 0x80:
                stop = at + 1
                while stop < len(text) and text[stop] & 0xC0 == 0x80:
                    stop += 1
                is_cut[at:stop] = [all(is_cut[at:stop])] * (stop - at)
        yield is_cut
