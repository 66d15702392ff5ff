"""The whole of `llm dedup`: read, decide, read again and write what stays."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from llmtools import terminal
from llmtools.data.batch import Batch, batches
from llmtools.data.dedup_index import Names, Stored, all_names, attach_all, write_stored
from llmtools.data.dedup_output import drop_log, write_decided
from llmtools.data.duplicates import Clusters, Signatures, as_clusters
from llmtools.data.equal_texts import EqualTexts, EqualTextSettings
from llmtools.data.keep import Keep
from llmtools.data.minhash import MinHashSettings
from llmtools.data.semantic import Meanings, SemanticSettings
from llmtools.data.simhash import Fingerprints, SimHashSettings
from llmtools.data.verify import verify
from llmtools.errors import UsageError
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import (
    ZSTD_LEVEL,
    atomic_directory,
    check_distinct,
    claim_outputs,
    open_output,
)
from llmtools.formats.record import Document, document_hash
from llmtools.formats.replay import Reading, Replay
from llmtools.formats.skips import OnError, Skips, open_rejects
from llmtools.formats.stream import names_of


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupSettings:
    """What `dedup` does besides the signatures themselves.

    instead: what documents are compared by, where that is not MinHash. keep: which document of a
    cluster survives (keep.py). verify_jaccard: the similarity that all documents of a cluster must
    have to each other; 0 for no check. cluster_ids: add metadata.cluster, the id of the survivor,
    and metadata.cluster_size. memory: bytes the process may take, None for no limit.
    """

    minhash: MinHashSettings = field(default_factory=MinHashSettings)
    instead: SimHashSettings | SemanticSettings | EqualTextSettings | None = None
    keep: str = "first"
    verify_jaccard: float = 0.0
    cluster_ids: bool = False
    memory: int | None = None
    text_key: str = "text"
    id_key: str = "id"

    def __post_init__(self) -> None:
        Keep(self.keep)
        if not 0 <= self.verify_jaccard <= 1:
            raise UsageError(f"verify_jaccard {self.verify_jaccard} is no similarity from 0 to 1")

    def decisive(self) -> dict[str, Any]:
        """The settings without those that change no byte of the output."""
        return {k: v for k, v in asdict(self).items() if k != "memory"}


class Gathered:
    """What one reading of the documents leaves: numbers for each, and ids where they are needed."""

    def __init__(self, settings: DedupSettings, *, needs_ids: bool) -> None:
        self._text_key = settings.text_key
        self._keep = Keep(settings.keep)
        self._hashes = array("Q")
        self._values = array("d")
        self._lengths = array("q")
        self._needs_lengths = settings.verify_jaccard > 0
        # A copy of every id in memory: collected only where ids will be written.
        self.names: Names | None = Names() if needs_ids else None

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        return np.frombuffer(self._hashes, np.uint64)

    @property
    def values(self) -> npt.NDArray[np.float64] | None:
        return np.frombuffer(self._values) if self._keep.has_values else None

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.frombuffer(self._lengths, np.int64)

    def watch(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Pass documents on, noting what is needed of each."""
        for document in documents:
            self._hashes.append(document_hash(document.id))
            if self._keep.has_values:
                self._values.append(self._keep.value(document))
            if self._needs_lengths:
                self._lengths.append(len(document.text))
            if self.names is not None:
                self.names.add(document.id)
            yield document

    def store(self, folder: Path, signatures: Signatures, reading: Reading | None = None) -> None:
        """Write these documents' keys and ids, and how they were read where they will be again."""
        assert self.names is not None
        values = None if reading is None else self.values
        write_stored(folder, signatures, self.names, self.hashes, values, reading)

    def check(self, inputs: list[str], skips: Skips) -> None:
        """Raises InputError for input without documents or without what the keep rule needs."""
        source = names_of(inputs)
        if not self._hashes:
            raise NothingLeft(f"{source}: no documents in the input{skips.explain()}")
        self._keep.check(source)


def dedup(
    inputs: list[str],
    output: str,
    settings: DedupSettings,
    *,
    rejects: str | None = None,
    indexes: tuple[str, ...] = (),
    create_index: str | None = None,
    on_error: OnError = "fail",
    zstd_level: int = ZSTD_LEVEL,
    force: bool = False,
) -> dict[str, Any]:
    """Write one document of each cluster of duplicates; returns the counts.

    Survivors keep their order and, unless `cluster_ids`, their bytes. `rejects` gets the other
    documents, each with metadata.reject = {"rule": "exact" or "near", "value": survivor's id}, and
    before them the malformed ones. What has a copy in one of `indexes` is dropped; `create_index`
    gets a new one of these documents.
    Raises InputError for bad input, for input without any document, and where nothing is left.
    """
    if settings.instead is not None and (indexes or create_index is not None):
        raise UsageError("indexes hold MinHash keys; leave --index and --create-index out")
    destinations = [output] if rejects is None else [output, rejects]
    recorder = Recorder("dedup", settings.decisive())
    stored = open_indexes(indexes, settings)
    for index in stored:
        recorder.read_path(index.path)
    needs_ids = settings.cluster_ids or rejects is not None
    gathered = Gathered(settings, needs_ids=needs_ids or create_index is not None)
    skips = Skips(on_error, adds_metadata=needs_ids)
    with ExitStack() as stack:
        if create_index is not None:
            check_distinct([*destinations, create_index])
        stack.enter_context(claim_outputs(destinations, force=force, is_directory=False))
        folder = None
        if create_index is not None:
            folder = stack.enter_context(atomic_directory(create_index, force=force))
        skips.sink = stack.enter_context(open_rejects(rejects, force=force, zstd_level=zstd_level))
        replay = stack.enter_context(
            Replay(inputs, text_key=settings.text_key, id_key=settings.id_key, skips=skips)
        )
        base = sum(index.num_documents for index in stored)
        signatures: Signatures | Fingerprints | Meanings | EqualTexts
        if isinstance(settings.instead, SimHashSettings):
            signatures = Fingerprints(settings.instead)
        elif isinstance(settings.instead, EqualTextSettings):
            signatures = EqualTexts()
        elif settings.instead is not None:
            recorder.read_path(Path(settings.instead.path))
            signatures = Meanings(settings.instead)
        else:
            signatures = stack.enter_context(Signatures(settings.minhash, settings.memory, base))
        if isinstance(signatures, Signatures):
            attach_all(stored, signatures)
        with terminal.progress("dedup", unit="doc") as bar:
            documents = gathered.watch(replay.documents(recorder.read))
            for batch in _counted(batches(documents), bar):
                signatures.add(batch)
        gathered.check(inputs, skips)
        clusters = cluster_documents(signatures, gathered, settings, replay)
        if folder is not None:
            assert isinstance(signatures, Signatures)
            gathered.store(folder, signatures)
        with open_output(output, force=force, zstd_level=zstd_level) as kept:
            sinks = [kept] if skips.sink is None else [kept, skips.sink]
            names = all_names(stored, gathered.names) if needs_ids else None
            sizes = clusters.size if settings.cluster_ids else None
            write_decided(replay, clusters, names, sizes, sinks)
            _check_left(clusters, inputs, ", ".join(indexes))
            # All or none: neither output is published before both are written out.
            for sink in sinks:
                sink.flush()
    counts = clusters.counts() | {"documents_skipped": skips.count}
    recorder.count(**counts)
    hashes = np.concatenate([*(index.hashes for index in stored), gathered.hashes])
    recorder.drops = drop_log(clusters, gathered.hashes, hashes[clusters.root])
    for sink in sinks:
        recorder.wrote(sink)
    recorder.write_beside(*destinations)
    return counts


def open_indexes(indexes: Iterable[str], settings: DedupSettings) -> list[Stored]:
    """What some indexes hold; raises InputError for what is none."""
    stored = [Stored(Path(index)) for index in indexes]
    if stored and settings.verify_jaccard:
        raise UsageError("verify_jaccard needs the texts of both documents; an index has none")
    return stored


def cluster_documents(
    signatures: Signatures | Fingerprints | Meanings | EqualTexts,
    gathered: Gathered,
    settings: DedupSettings,
    replay: Replay,
) -> Clusters:
    """The clusters of what was gathered, verified where the settings ask for it."""
    root, same_text = signatures.link()
    if settings.verify_jaccard:

        def texts() -> Iterator[str]:
            for raw in replay.raw_records():
                yield orjson.loads(raw)[settings.text_key]

        root = verify(
            root,
            same_text,
            gathered.lengths,
            texts,
            n_grams=settings.minhash.n_grams,
            threshold=settings.verify_jaccard,
            memory=None if settings.memory is None else settings.memory // 2,
        )
    return as_clusters(root, same_text, values=gathered.values, base=signatures.base)


def _check_left(clusters: Clusters, inputs: list[str], elsewhere: str) -> None:
    """Raises NothingLeft where all documents have copies `elsewhere`."""
    if not clusters.is_kept.any():
        raise NothingLeft(
            f"{names_of(inputs)}: all {clusters.root.size:,} documents have copies in {elsewhere}",
            clusters.counts(),
        )


def _counted(found: Iterable[Batch], bar: terminal.Progress) -> Iterator[Batch]:
    for batch in found:
        yield batch
        bar.update(len(batch.documents))
