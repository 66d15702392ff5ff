"""Counting the different words of a stream that is larger than memory.

Words are counted in a hash table. When it would outgrow its share of the memory, it is written to a
temporary file, sorted by hash, and begun anew; at the end the files are added up, one range of
hashes after another. What comes out does not depend on the order of the texts.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt

from llmtools.formats.output import output_faults
from llmtools.tokenizer import word_kernel as k
from llmtools.tokenizer.classes import class_table

# Of a word in the table: hash, start, count, and up to four slots.
ENTRY_BYTES = 40
# What training takes for each byte of the different words, and for each word.
TRAIN_BYTES = 24
FIRST_WORDS = 1 << 14
BATCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class WordTable:
    """Different words and how often each occurs.

    words: (B,) uint8, their UTF-8 in turn; starts: (W + 1,) int64; counts: (W,) int64.
    num_read: words of the stream; num_left_out, num_read_left_out: the different words that were
    too rare for the memory, and how often they occurred; least: the lowest count kept.
    """

    words: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    num_read: int = 0
    num_left_out: int = 0
    num_read_left_out: int = 0
    least: int = 1

    def texts(self) -> list[bytes]:
        """The words, one by one."""
        data, bounds = self.words.tobytes(), self.starts.tolist()
        return [data[a:b] for a, b in itertools.pairwise(bounds)]


@dataclass(frozen=True, slots=True)
class _Run:
    """A spilled table: the file's four parts, sorted by hash."""

    hashes: npt.NDArray[np.uint64]
    counts: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    words: npt.NDArray[np.uint8]

    def between(self, low: int, high: int) -> tuple[int, int]:
        """The words with low <= hash <= high."""
        first = int(np.searchsorted(self.hashes, np.uint64(low), "left"))
        return first, int(np.searchsorted(self.hashes, np.uint64(high), "right"))


class WordCounter:
    """Counts words until `table` is asked for; a context, as it may hold temporary files.

    scanner: one of word_kernel's. memory_bytes: for the table, and for the training after it.
    """

    def __init__(self, scanner: int, memory_bytes: int) -> None:
        self._scanner, self._memory = scanner, memory_bytes
        self._index, self._blocks = class_table()
        self._runs: list[IO[bytes]] = []
        self._spilled_bytes = 0
        self._num_read = 0
        self._begin()

    def __enter__(self) -> WordCounter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._runs:
            file.close()

    @property
    def num_runs(self) -> int:
        """Temporary files written so far."""
        return len(self._runs)

    def _begin(self) -> None:
        self._slots = np.zeros(2 * FIRST_WORDS, np.int32)
        self._hashes = np.empty(FIRST_WORDS, np.uint64)
        self._counts = np.empty(FIRST_WORDS, np.int64)
        self._starts = np.zeros(FIRST_WORDS + 1, np.int64)
        self._words = np.empty(8 * FIRST_WORDS, np.uint8)
        self._at = np.zeros(5, np.int64)

    def add(self, texts: Iterable[str]) -> None:
        """Count the words of some texts; a word ends where its text ends."""
        held: list[bytes] = []
        num_bytes = 0
        for text in texts:
            held.append(text.encode())
            num_bytes += len(held[-1])
            if num_bytes >= BATCH_BYTES:
                self._count(held)
                held, num_bytes = [], 0
        self._count(held)

    def _count(self, texts: Sequence[bytes]) -> None:
        text = np.frombuffer(b"".join(texts), np.uint8)
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(one) for one in texts], out=offsets[1:])
        self._at[k.DOCUMENT] = self._at[k.POSITION] = 0
        while True:
            k.count_words(
                text, offsets, self._scanner, self._index, self._blocks, self._slots,
                self._hashes, self._starts, self._counts, self._words, self._at,
            )  # fmt: skip
            if self._at[k.DOCUMENT] == len(texts):
                break
            self._grow(text.size)

    def _grow(self, wanted: int) -> None:
        """Twice the room of what is full, or an empty table where that is too much memory."""
        num_words, num_bytes = int(self._at[k.NUM_WORDS]), int(self._at[k.NUM_BYTES])
        is_full = num_words == self._hashes.size
        num_entries = self._hashes.size * (2 if is_full else 1)
        room = self._words.size * (1 if is_full else 2)
        # The old arrays are there until the new ones are filled.
        if num_words and 1.5 * (num_entries * ENTRY_BYTES + room) > self._memory / 2:
            self._spill()
            num_entries, room = self._hashes.size, self._words.size
            num_words = num_bytes = 0
        room = max(room, num_bytes + wanted)
        if num_entries > self._hashes.size:
            self._hashes = np.resize(self._hashes, num_entries)
            self._counts = np.resize(self._counts, num_entries)
            self._starts = np.resize(self._starts, num_entries + 1)
            self._slots = np.zeros(2 * num_entries, np.int32)
            k.fill_slots(self._hashes, num_words, self._slots)
        if room > self._words.size:
            words = np.empty(room, np.uint8)
            words[:num_bytes] = self._words[:num_bytes]
            self._words = words

    def _spill(self) -> None:
        """Write the table to a file, sorted by hash, and empty it."""
        run = self._sorted()
        with output_faults(tempfile.gettempdir()):
            file = tempfile.TemporaryFile()
            self._runs.append(file)
            file.write(np.array([len(run.hashes), run.words.size], np.int64).tobytes())
            for part in (run.hashes, run.counts, run.starts, run.words):
                file.write(part.data)
            file.flush()
        self._spilled_bytes += file.tell()
        self._num_read += int(self._at[k.NUM_READ])
        document, position = self._at[k.DOCUMENT], self._at[k.POSITION]
        self._begin()
        self._at[k.DOCUMENT], self._at[k.POSITION] = document, position

    def _sorted(self) -> _Run:
        num_words, num_bytes = self._at[k.NUM_WORDS], self._at[k.NUM_BYTES]
        order = np.argsort(self._hashes[:num_words], kind="stable")
        starts = np.zeros(num_words + 1, np.int64)
        words = np.empty(num_bytes, np.uint8)
        k.reorder(self._starts, self._words, order, starts, words)
        return _Run(self._hashes[order], self._counts[order], starts, words)

    def table(self) -> WordTable:
        """What was counted; call once, last.

        Where training on all words would take more than the memory, the rarest are left out: all
        that occur less often than the lowest count that lets the others fit.
        """
        self._num_read += int(self._at[k.NUM_READ])
        if not self._runs:
            num_words, num_bytes = self._at[k.NUM_WORDS], self._at[k.NUM_BYTES]
            whole = WordTable(
                self._words[:num_bytes], self._starts[: num_words + 1], self._counts[:num_words]
            )
            parts: Iterator[WordTable] = iter([whole])
        else:
            if self._at[k.NUM_WORDS]:
                self._num_read -= int(self._at[k.NUM_READ])
                self._spill()
            parts = self._merged()
        return _fitting(parts, self._memory // TRAIN_BYTES, self._num_read)

    def _merged(self) -> Iterator[WordTable]:
        """The sums of all runs, one range of hashes after another."""
        runs = [_open_run(file) for file in self._runs]
        num_ranges = 1 + 8 * self._spilled_bytes // self._memory
        bounds = [part * 2**64 // num_ranges for part in range(num_ranges + 1)]
        for low, high in itertools.pairwise(bounds):
            places = [run.between(low, high - 1) for run in runs]
            pairs = list(zip(runs, places, strict=True))
            hashes = np.concatenate([run.hashes[a:b] for run, (a, b) in pairs])
            counts = np.concatenate([run.counts[a:b] for run, (a, b) in pairs])
            words = np.concatenate(
                [run.words[run.starts[a] : run.starts[b]] for run, (a, b) in pairs]
            )
            starts = np.zeros(len(hashes) + 1, np.int64)
            np.cumsum(
                np.concatenate([np.diff(run.starts[a : b + 1]) for run, (a, b) in pairs]),
                out=starts[1:],
            )
            slots = np.zeros(1 << max(4, (2 * len(hashes)).bit_length()), np.int32)
            kept = (np.empty_like(hashes), np.zeros_like(starts), np.empty_like(words))
            totals = np.zeros(len(hashes), np.int64)
            num = k.add_counted(hashes, starts, words, counts, slots, *kept, totals)
            yield WordTable(kept[2][: kept[1][num]], kept[1][: num + 1], totals[:num])


def _open_run(file: IO[bytes]) -> _Run:
    data = np.memmap(file, np.uint8, "r")
    num_words, num_bytes = map(int, np.frombuffer(data[:16].tobytes(), np.int64))
    bounds = np.cumsum([16, 8 * num_words, 8 * num_words, 8 * (num_words + 1), num_bytes])
    parts = [np.asarray(data[a:b]) for a, b in itertools.pairwise(bounds)]
    hashes, counts, starts = (
        parts[0].view(np.uint64),
        parts[1].view(np.int64),
        parts[2].view(np.int64),
    )
    return _Run(hashes, counts, starts, parts[3])


def _fitting(parts: Iterable[WordTable], room: int, num_read: int) -> WordTable:
    """One table of at most `room` bytes and words, the most frequent ones of all parts."""
    kept: list[WordTable] = []
    least = 1
    num_words = num_read_kept = used = 0
    for part in parts:
        num_words += len(part.counts)
        kept.append(part if least == 1 else _at_least(part, least))
        used += kept[-1].words.size + len(kept[-1].counts)
        if used > room:
            counts = np.concatenate([one.counts for one in kept])
            sizes = np.concatenate([np.diff(one.starts) for one in kept]) + 1
            order = np.argsort(counts)[::-1]
            num_fitting = int(np.searchsorted(np.cumsum(sizes[order]), room, "right"))
            # Of equally frequent words all are kept or none.
            least = int(counts[order[num_fitting]]) + 1
            kept = [_at_least(one, least) for one in kept]
            used = sum(one.words.size + len(one.counts) for one in kept)
    if len(kept) == 1:
        words, starts, counts = kept[0].words, kept[0].starts, kept[0].counts
    else:
        words = np.concatenate([one.words for one in kept])
        counts = np.concatenate([one.counts for one in kept])
        starts = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(np.concatenate([np.diff(one.starts) for one in kept]), out=starts[1:])
    num_read_kept = int(counts.sum())
    return WordTable(
        words, starts, counts, num_read, num_words - len(counts), num_read - num_read_kept, least
    )


def _at_least(table: WordTable, least: int) -> WordTable:
    """The words that occur at least so often."""
    order = np.flatnonzero(table.counts >= least)
    sizes = np.diff(table.starts)[order]
    starts = np.zeros(len(order) + 1, np.int64)
    words = np.empty(int(sizes.sum()), np.uint8)
    k.reorder(table.starts, table.words, order, starts, words)
    return WordTable(words, starts, table.counts[order])
