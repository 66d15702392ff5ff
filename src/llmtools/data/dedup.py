"""The whole of `llm dedup`: read, decide, read again and write what stays."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools import terminal
from llmtools.data.batch import Batch, batches
from llmtools.data.duplicates import Clusters, find_duplicates
from llmtools.data.minhash import MinHashSettings
from llmtools.formats.document import Document, document_hash
from llmtools.formats.drop_log import DropLog
from llmtools.formats.json_edit import add_metadata
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.manifest import Recorder
from llmtools.formats.replay import Replay
from llmtools.formats.skips import OnError, Skips, open_rejects
from llmtools.formats.stream import OutputStream, claim_outputs, open_output


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupSettings:
    """What `dedup` does besides the signatures themselves."""

    minhash: MinHashSettings = field(default_factory=MinHashSettings)
    cluster_ids: bool = False
    """Add metadata.cluster, the id of the cluster's survivor, and metadata.cluster_size."""
    text_key: str = "text"
    id_key: str = "id"


def dedup(
    inputs: list[str],
    output: str,
    settings: DedupSettings,
    *,
    rejects: str | None = None,
    on_error: OnError = "fail",
    force: bool = False,
) -> dict[str, Any]:
    """Write the first document of each cluster of duplicates; returns the counts.

    Survivors keep their order and, unless `cluster_ids`, their bytes. `rejects` gets the other
    documents, each with metadata.reject = {"rule": "exact" or "near", "value": survivor's id}, and
    before them the malformed ones.
    Raises InputError for bad input and for input without any document.
    """
    destinations = [output] if rejects is None else [output, rejects]
    recorder = Recorder("dedup", asdict(settings))
    # A copy of every id in memory: collected only where ids will be written.
    ids: list[str] | None = [] if settings.cluster_ids or rejects is not None else None
    hashes = array("Q")
    skips = Skips(on_error, adds_metadata=ids is not None)
    with (
        claim_outputs(destinations, force=force, is_directory=False),
        open_rejects(rejects, force=force) as skips.sink,
        Replay(inputs, text_key=settings.text_key, id_key=settings.id_key, skips=skips) as replay,
    ):
        with terminal.progress("dedup", unit="doc") as bar:
            found = batches(_collect_ids(replay.documents(recorder.read), ids, hashes))
            clusters = find_duplicates(_counted(found, bar), settings.minhash)
        if clusters.root.size == 0:
            raise NothingLeft(f"{', '.join(inputs)}: no documents in the input{skips.explain()}")
        with open_output(output, force=force) as kept:
            sinks = [kept] if skips.sink is None else [kept, skips.sink]
            if ids is None:
                _write_kept(replay, clusters, kept)
            else:
                _write_named(replay, clusters, ids, settings.cluster_ids, sinks)
            # All or none: neither output is published before both are written out.
            for sink in sinks:
                sink.flush()
    counts = clusters.counts() | {"documents_skipped": skips.count}
    recorder.count(**counts)
    recorder.drops = _drop_log(clusters, np.frombuffer(hashes, np.uint64))
    for sink in sinks:
        recorder.wrote(sink)
    recorder.write_beside(*destinations)
    return counts


def _collect_ids(
    documents: Iterable[Document], ids: list[str] | None, hashes: array[int]
) -> Iterator[Document]:
    for document in documents:
        hashes.append(document_hash(document.id))
        if ids is not None:
            ids.append(document.id)
        yield document


def _drop_log(clusters: Clusters, hashes: npt.NDArray[np.uint64]) -> DropLog:
    log = DropLog()
    for rule, is_rule in (("exact", clusters.is_exact), ("near", ~clusters.is_exact)):
        dropped = np.flatnonzero(~clusters.is_kept & is_rule)
        log.add_twins(rule, hashes[dropped], hashes[clusters.root[dropped]])
    return log


def _counted(found: Iterable[Batch], bar: terminal.Progress) -> Iterator[Batch]:
    for batch in found:
        yield batch
        bar.update(len(batch.documents))


def _write_kept(replay: Replay, clusters: Clusters, sink: OutputStream) -> None:
    for raw, is_kept in zip(replay.raw_records(), clusters.is_kept.tolist(), strict=True):
        if is_kept:
            sink.write(raw + b"\n")


def _write_named(
    replay: Replay,
    clusters: Clusters,
    ids: list[str],
    cluster_ids: bool,
    sinks: list[OutputStream],
) -> None:
    """Write survivors to the first sink and the others to the second, if there is one."""
    rows = zip(
        replay.raw_records(),
        clusters.root.tolist(),
        clusters.size.tolist(),
        clusters.is_exact.tolist(),
        strict=True,
    )
    for number, (raw, root, size, is_exact) in enumerate(rows):
        is_kept = root == number
        if not is_kept and len(sinks) == 1:
            continue
        added: dict[str, Any] = {}
        if cluster_ids:
            added = {"cluster": ids[root], "cluster_size": size}
        if not is_kept:
            added["reject"] = {"rule": "exact" if is_exact else "near", "value": ids[root]}
        where = f"document {ids[number]!r}"
        record = add_metadata(raw, added, where) if added else raw
        sinks[0 if is_kept else 1].write(record + b"\n")
