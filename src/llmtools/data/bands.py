"""Keys of documents, band by band, and the documents that share one.

Keys are held in memory up to a limit. Beyond it they go to disk as runs, each band sorted by key,
and are read back by ranges of keys, so that equal keys of all runs meet in one chunk of bounded
size. A run is a safetensors file with `keys.BAND` (uint64, sorted) and `documents.BAND` (uint32):
what a spill, a phase of a distributed run and an index write alike.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from llmtools.errors import InputError
from llmtools.formats.output import output_faults
from llmtools.formats.tensor_header import Header, read_header, write_header

Keys = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
# What a row of a chunk takes: key, document, their places in the sorted order, and the sorted copy.
CHUNK_ROW_BYTES = 40
# Rows of a chunk where no limit is set.
WHOLE = 1 << 62
END = 1 << 64


@dataclass(frozen=True, slots=True)
class Run:
    """One file of sorted keys; its documents are numbered from `base` on."""

    file: BinaryIO
    header: Header
    base: int
    where: str

    def size(self, band: int) -> int:
        """Rows of a band."""
        return self.header.tensors[_keys(band)].num_elements

    def rows(self, band: int, low: int, high: int) -> tuple[Numbers, Keys]:
        """Documents and keys with low <= key < high."""
        start, stop = self._place(band, low), self._place(band, high)
        keys = self._read(_keys(band), np.dtype("<u8"), start, stop)
        documents = self._read(_documents(band), np.dtype("<u4"), start, stop)
        return documents.astype(np.int64) + self.base, keys

    def _place(self, band: int, key: int) -> int:
        """The first row whose key is not below `key`."""
        low, high = 0, self.size(band)
        while low < high:
            middle = (low + high) // 2
            if int(self._read(_keys(band), np.dtype("<u8"), middle, middle + 1)[0]) < key:
                low = middle + 1
            else:
                high = middle
        return low

    def _read(self, name: str, dtype: np.dtype[Any], start: int, stop: int) -> Any:
        at = self.header.data_start + self.header.tensors[name].start + dtype.itemsize * start
        out = np.empty(stop - start, dtype)
        left, place = out.data.cast("B"), at
        while left:
            found = os.preadv(self.file.fileno(), [left], place)
            if found == 0:
                raise InputError(f"{self.where}: ends early, within {name}")
            left, place = left[found:], place + found
        return out


def _keys(band: int) -> str:
    return f"keys.{band:03d}"


def _documents(band: int) -> str:
    return f"documents.{band:03d}"


def open_run(path: Path, num_bands: int, num_documents: int, base: int = 0) -> Run:
    """A run written by `Bands.save`; raises InputError for a file that is none."""
    try:
        file = open(path, "rb")
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror}") from fault
    try:
        header = _checked_header(file, path, num_bands, num_documents)
    except BaseException:
        file.close()
        raise
    return Run(file, header, base, str(path))


def _checked_header(file: BinaryIO, path: Path, num_bands: int, num_documents: int) -> Header:
    header = read_header(file, str(path))
    wanted = {name(band) for band in range(num_bands) for name in (_keys, _documents)}
    if header is None or header.tensors.keys() != wanted:
        raise InputError(f"{path}: not {num_bands} bands of keys")
    for band in range(num_bands):
        keys, documents = header.tensors[_keys(band)], header.tensors[_documents(band)]
        if (keys.dtype, documents.dtype) != ("U64", "U32") or keys.shape != documents.shape:
            raise InputError(f"{path}: band {band} has {keys.shape} keys, {documents.shape} rows")
        if keys.num_elements > num_documents:
            raise InputError(f"{path}: band {band} has more keys than {num_documents} documents")
    if path.stat().st_size != header.data_start + header.data_bytes:
        raise InputError(f"{path}: truncated")
    return header


def _write_run(
    file: BinaryIO, rows: int, bands: Sequence[Iterable[tuple[Numbers, Keys]]]
) -> Header:
    """Write bands of so many rows, each given in pieces with ascending keys, to a seekable file."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for band in range(len(bands)):
        tensors |= {_keys(band): ("U64", (rows,)), _documents(band): ("U32", (rows,))}
    _, head = write_header(tensors, {"format": "llmtools/bands@1"})
    file.write(head)
    file.seek(0)
    header = read_header(file, "bands")
    assert header is not None
    for band, pieces in enumerate(bands):
        places = [header.data_start + header.tensors[f(band)].start for f in (_keys, _documents)]
        for documents, keys in pieces:
            for number, array in enumerate((keys, documents.astype("<u4"))):
                file.seek(places[number])
                places[number] += file.write(array.data.cast("B"))
    file.flush()
    return header


class Bands:
    """`num_bands` bands; a document has a key in each of them, or in none.

    buffer_bytes: what the keys in memory may take before they are spilled, and what one chunk may
    take; None for no limit.
    """

    def __init__(self, num_bands: int, buffer_bytes: int | None = None) -> None:
        self.num_bands = num_bands
        self._limit = buffer_bytes
        self._blocks: list[tuple[Numbers, Keys]] = []
        self._held = 0
        self._runs: list[Run] = []
        self._attached: list[Run] = []

    def __enter__(self) -> Bands:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for run in self._runs + self._attached:
            run.file.close()

    def attach(self, run: Run) -> None:
        """Count the rows of a file among these."""
        self._attached.append(run)

    def add(self, documents: Numbers, keys: Keys) -> None:
        """Documents (D,), ascending over all calls, and their keys (D, num_bands)."""
        if not documents.size:
            return
        self._blocks.append((documents, keys))
        self._held += documents.nbytes + keys.nbytes
        if self._limit is not None and self._held > self._limit:
            self._spill()

    def _column(self, band: int) -> tuple[Numbers, Keys]:
        """What is in memory of one band."""
        if not self._blocks:
            return np.empty(0, np.int64), np.empty(0, np.uint64)
        documents = np.concatenate([documents for documents, _ in self._blocks])
        return documents, np.concatenate([keys[:, band] for _, keys in self._blocks])

    def _in_memory(self, band: int) -> Iterator[tuple[Numbers, Keys]]:
        yield self._column(band)

    @property
    def rows(self) -> int:
        """How many documents have keys here, without those of attached files."""
        spilled = sum(run.size(0) for run in self._runs)
        return spilled + sum(documents.size for documents, _ in self._blocks)

    def save(self, file: BinaryIO, base: int = 0) -> None:
        """Write all rows, without those of attached files, as a run of documents from `base` on."""
        runs = [self._sorted(self.chunks(band, own=True), base) for band in range(self.num_bands)]
        _write_run(file, self.rows, runs)

    def _sorted(
        self, chunks: Iterable[tuple[Numbers, Keys]], base: int
    ) -> Iterator[tuple[Numbers, Keys]]:
        for documents, keys in chunks:
            order = np.argsort(keys, kind="stable")
            yield documents[order] - base, keys[order]

    def _spill(self) -> None:
        base = int(self._blocks[0][0][0])
        columns = [self._sorted(self._in_memory(band), base) for band in range(self.num_bands)]
        rows = sum(documents.size for documents, _ in self._blocks)
        with output_faults(f"{tempfile.gettempdir()} (set TMPDIR to another folder)"):
            file = cast(BinaryIO, tempfile.TemporaryFile(prefix="llmtools-"))
            header = _write_run(file, rows, columns)
        self._runs.append(Run(file, header, base, "temporary file"))
        self._blocks, self._held = [], 0

    def chunks(
        self, band: int, low: int = 0, high: int = END, *, own: bool = False
    ) -> Iterator[tuple[Numbers, Keys]]:
        """Documents and keys of a band with low <= key < high, equal keys in one chunk.

        own: without those of attached files.
        """
        runs = self._runs if own else self._runs + self._attached
        if runs and self._blocks and self._limit is not None:
            self._spill()
            runs = self._runs if own else self._runs + self._attached
        held, held_keys = self._column(band)
        if not runs and (low, high) == (0, END):
            yield held, held_keys
            return
        rows = sum(run.size(band) for run in runs) + held.size
        most = WHOLE if self._limit is None else max(1, self._limit // CHUNK_ROW_BYTES)
        parts = max(1, -(-rows * (high - low) // END // most))
        for part in range(parts):
            start = low + (high - low) * part // parts
            stop = low + (high - low) * (part + 1) // parts
            found = [run.rows(band, start, stop) for run in runs]
            chosen = (held_keys >= np.uint64(start)) & (held_keys <= np.uint64(stop - 1))
            found.append((held[chosen], held_keys[chosen]))
            yield (
                np.concatenate([documents for documents, _ in found]),
                np.concatenate([keys for _, keys in found]),
            )
