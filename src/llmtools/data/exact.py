"""`llm dedup --method exact`: documents whose text came before are dropped, in one pass.

What is compared is the xxh3-128 digest of the text as UTF-8: two different texts of a corpus of
10^12 share one with a probability of 10^-15. Memory: a KeySet with values, 32 to 64 bytes a
distinct document, and the ids of the survivors where --rejects names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from llmtools import terminal
from llmtools.data.key_set import KeySet
from llmtools.formats.document import read_documents
from llmtools.formats.drop_log import DropLog
from llmtools.formats.json_edit import add_metadata
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import ZSTD_LEVEL, OutputStream, check_outputs, open_output
from llmtools.formats.record import Document, document_hash
from llmtools.formats.skips import OnError, Skips, open_rejects
from llmtools.formats.stream import names_of

# How many documents, and bytes of their records, are looked up and written at once.
BATCH_DOCUMENTS = 8192
BATCH_BYTES = 4 << 20


def dedup_exact(
    inputs: list[str],
    output: str,
    *,
    text_key: str = "text",
    id_key: str = "id",
    rejects: str | None = None,
    on_error: OnError = "fail",
    zstd_level: int = ZSTD_LEVEL,
    force: bool = False,
) -> dict[str, Any]:
    """Write the first document of each text, its bytes as they were; returns the counts.

    `rejects` gets the others, with metadata.reject = {"rule": "exact", "value": survivor's id}, and
    malformed records. Raises InputError for bad input and for input without any document.
    """
    destinations = [output] if rejects is None else [output, rejects]
    check_outputs(destinations, force=force)
    settings = {"method": "exact", "text_key": text_key, "id_key": id_key}
    recorder = Recorder("dedup", settings)
    recorder.drops = DropLog()
    skips = Skips(on_error, adds_metadata=rejects is not None)
    documents = read_documents(
        inputs, text_key=text_key, id_key=id_key, on_read=recorder.read, skips=skips
    )
    with (
        open_rejects(rejects, force=force, zstd_level=zstd_level) as skips.sink,
        open_output(output, force=force, zstd_level=zstd_level) as kept,
    ):
        writer = _Writer(kept, skips.sink, recorder.drops)
        with terminal.progress("dedup", unit="doc") as bar:
            for group in _groups(documents, keeps_documents=rejects is not None):
                writer.write(group)
                bar.update(len(group.records))
        if writer.num_documents == 0:
            raise NothingLeft(f"{names_of(inputs)}: no documents in the input{skips.explain()}")
        sinks = [kept] if skips.sink is None else [kept, skips.sink]
        # All or none: neither output is published before both are written out.
        for sink in sinks:
            sink.flush()
    counts = writer.counts() | {"documents_skipped": skips.count}
    recorder.count(**counts)
    for sink in sinks:
        recorder.wrote(sink)
    recorder.write_beside(*destinations)
    return counts


@dataclass(slots=True)
class _Group:
    """Some documents in a row: what is compared, what names them, and their records.

    documents: themselves, only where rejects are written: without their texts more of a group stays
    in the processor's cache.
    """

    digests: list[bytes]
    ids: list[int]
    records: list[bytes]
    documents: list[Document]


def _groups(documents: Iterable[Document], *, keeps_documents: bool) -> Iterator[_Group]:
    digest = xxhash.xxh3_128_digest
    group = _Group([], [], [], [])
    num_bytes = 0
    for document in documents:
        raw = document.raw
        group.digests.append(digest(document.encoded))
        group.ids.append(document_hash(document.id))
        group.records.append(raw)
        if keeps_documents:
            group.documents.append(document)
        num_bytes += len(raw)
        if num_bytes >= BATCH_BYTES or len(group.records) == BATCH_DOCUMENTS:
            yield group
            group = _Group([], [], [], [])
            num_bytes = 0
    if group.records:
        yield group


class _Writer:
    """Sorts groups of documents into first ones and copies."""

    def __init__(self, kept: OutputStream, rejects: OutputStream | None, drops: DropLog) -> None:
        self._kept, self._rejects, self._drops = kept, rejects, drops
        self._seen = KeySet(has_values=True)
        # Survivors' ids by their hashes, only where they will be written.
        self._names: dict[int, str] = {}
        self.num_documents = 0

    def counts(self) -> dict[str, int]:
        dropped = self.num_documents - self._seen.size
        return {
            "documents_in": self.num_documents,
            "documents_kept": self._seen.size,
            "dropped_exact": dropped,
        }

    def write(self, group: _Group) -> None:
        keys = np.frombuffer(b"".join(group.digests), np.uint64).reshape(-1, 2)
        ids = np.array(group.ids, np.uint64)
        is_new, twins = self._seen.add(keys, ids)
        kept = list(compress(group.records, is_new.tolist()))
        if kept:
            kept.append(b"")
            self._kept.write(b"\n".join(kept))
        self._drops.add_twins("exact", ids[~is_new], twins[~is_new])
        if self._rejects is not None:
            self._write_rejects(self._rejects, group.documents, is_new, ids, twins)
        self.num_documents += len(group.records)

    def _write_rejects(
        self,
        rejects: OutputStream,
        documents: list[Document],
        is_new: npt.NDArray[np.bool_],
        ids: npt.NDArray[np.uint64],
        twins: npt.NDArray[np.uint64],
    ) -> None:
        for row in np.flatnonzero(is_new).tolist():
            self._names[int(ids[row])] = documents[row].id
        for row in np.flatnonzero(~is_new).tolist():
            reject = {"rule": "exact", "value": self._names[int(twins[row])]}
            document = documents[row]
            record = add_metadata(document.raw, {"reject": reject}, document.where)
            rejects.write(record + b"\n")
