"""Records that are read twice: files are opened again, pipes are kept in a temporary file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import IO, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from llmtools.errors import InputError
from llmtools.formats.document import read_documents
from llmtools.formats.output import OutputStream, output_faults
from llmtools.formats.raw_records import copy_lines, copy_records, read_raw_records
from llmtools.formats.record import Document
from llmtools.formats.skips import Skips
from llmtools.formats.stream import READ_BYTES, InputStream

OnRead = Callable[[InputStream], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a first reading found: documents, which of all records were dropped, and the digest of
    each input."""

    num_documents: int
    dropped: npt.NDArray[np.int64]
    digests: tuple[str, ...]


class Replay:
    """The documents of some inputs, parsed and checked, and then their raw bytes once more.

    Where every input is a regular file, it is opened again and must not have changed. Otherwise
    the records go to an unnamed file in the temporary folder, uncompressed: zstd at level 1 takes
    three times the CPU time of writing and reading them plain. spools: False where stdin will be
    there again. reading: the first one, where another process did it.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        *,
        text_key: str = "text",
        id_key: str = "id",
        skips: Skips | None = None,
        spools: bool = True,
        reading: Reading | None = None,
    ) -> None:
        self._inputs = list(inputs)
        self._text_key, self._id_key = text_key, id_key
        self._skips = skips or Skips()
        # Which records the first reading dropped, as their places among all of them.
        self._dropped: set[int] = set()
        self._digests: list[str] = []
        self._num_documents = 0
        if reading is not None:
            self._dropped.update(reading.dropped.tolist())
            self._digests += reading.digests
            self._num_documents = reading.num_documents
        self._spool: IO[bytes] | None = None
        needs_spool = spools and reading is None
        if needs_spool and not all(os.path.isfile(name) for name in self._inputs):
            self._spool = tempfile.TemporaryFile(prefix="llmtools-", buffering=READ_BYTES)

    def __enter__(self) -> Replay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._spool is not None:
            self._spool.close()

    def documents(self, on_read: OnRead) -> Iterator[Document]:
        """First reading; `on_read` is called with each input after its last record."""

        def finish(stream: InputStream) -> None:
            self._digests.append(stream.digest)
            on_read(stream)

        for document in read_documents(
            self._inputs,
            text_key=self._text_key,
            id_key=self._id_key,
            on_read=finish,
            skips=self._skips,
        ):
            self._note_dropped()
            if self._spool is not None:
                with _spool_faults():
                    self._spool.write(document.raw + b"\n")
            self._num_documents += 1
            yield document
        self._note_dropped()

    def _note_dropped(self) -> None:
        """Remember records dropped since the last document."""
        known = len(self._dropped)
        start = self._num_documents + known
        self._dropped.update(range(start, start + self._skips.count - known))

    @property
    def reading(self) -> Reading:
        """The first reading, once it is over."""
        return Reading(
            num_documents=self._num_documents,
            dropped=np.array(sorted(self._dropped), np.int64),
            digests=tuple(self._digests),
        )

    def raw_records(self, on_read: OnRead | None = None) -> Iterator[bytes]:
        """Second reading: the bytes of each document, in the same order; `on_read` as in the first.

        Raises InputError when a file is no longer what it was.
        """
        if self._spool is not None:
            with _spool_faults():
                self._spool.seek(0)
            yield from (line[:-1] for line in self._spool)
            return
        total = self._num_documents + len(self._dropped)
        for number, raw in enumerate(read_raw_records(self._inputs, self._same(on_read))):
            if number in self._dropped:
                continue
            if number == total:
                raise self._grown()
            yield raw

    def copy(
        self,
        is_wanted: npt.NDArray[np.bool_],
        sink: OutputStream,
        on_read: OnRead | None = None,
    ) -> None:
        """Second reading: write the bytes of the wanted documents, (D,) in the same order.

        Raises InputError when a file is no longer what it was.
        """
        if self._spool is not None:
            with _spool_faults():
                self._spool.seek(0)
            copy_lines(cast(BinaryIO, self._spool), is_wanted, sink)
            return
        wanted = np.zeros(self._num_documents + len(self._dropped), np.bool_)
        is_document = np.ones(wanted.size, np.bool_)
        is_document[list(self._dropped)] = False
        wanted[is_document] = is_wanted
        if copy_records(self._inputs, wanted, sink, self._same(on_read)) > wanted.size:
            raise self._grown()

    def _same(self, on_read: OnRead | None) -> OnRead:
        """A check of each input, once it is read again, that it is what it was."""
        digests = iter(self._digests)

        def check(stream: InputStream) -> None:
            if stream.digest != next(digests):
                raise InputError(f"{stream.stream_name}: changed while it was being read")
            if on_read is not None:
                on_read(stream)

        return check

    def _grown(self) -> InputError:
        return InputError(f"{', '.join(self._inputs)}: grew while it was being read")


def _spool_faults() -> AbstractContextManager[None]:
    return output_faults(f"{tempfile.gettempdir()} (set TMPDIR to another folder)")
