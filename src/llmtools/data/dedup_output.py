"""What dedup writes once the clusters are known: survivors, rejects, and the drop log."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.data.dedup_index import Names
from llmtools.data.duplicates import Clusters
from llmtools.formats.drop_log import DropLog
from llmtools.formats.json_edit import add_metadata
from llmtools.formats.output import OutputStream
from llmtools.formats.replay import OnRead, Replay


def write_decided(
    replay: Replay,
    clusters: Clusters,
    names: Names | Mapping[int, str] | None,
    sizes: npt.NDArray[np.int64] | None,
    sinks: list[OutputStream],
    on_read: OnRead | None = None,
) -> None:
    """Write survivors to the first sink and the others to the second, if there is one.

    names: the ids of these documents and of the survivors, by number; None where nothing is to name
    them. sizes: (D,) of the clusters, where survivors are to name them.
    """
    if names is None:
        replay.copy(clusters.is_kept, sinks[0], on_read)
    else:
        _write_named(replay.raw_records(on_read), clusters, names, sizes, sinks)


def _write_named(
    records: Iterable[bytes],
    clusters: Clusters,
    names: Names | Mapping[int, str],
    sizes: npt.NDArray[np.int64] | None,
    sinks: list[OutputStream],
) -> None:
    rows = zip(
        records,
        clusters.root.tolist(),
        (itertools.repeat(0, clusters.root.size) if sizes is None else sizes.tolist()),
        clusters.is_exact.tolist(),
        strict=True,
    )
    for number, (raw, root, size, is_exact) in enumerate(rows, clusters.base):
        is_kept = root == number
        if not is_kept and len(sinks) == 1:
            continue
        added: dict[str, Any] = {}
        if sizes is not None:
            added = {"cluster": names[root], "cluster_size": size}
        if not is_kept:
            added["reject"] = {"rule": "exact" if is_exact else "near", "value": names[root]}
        where = f"document {names[number]!r}"
        record = add_metadata(raw, added, where) if added else raw
        sinks[0 if is_kept else 1].write(record + b"\n")


def drop_log(
    clusters: Clusters, hashes: npt.NDArray[np.uint64], of_survivors: npt.NDArray[np.uint64]
) -> DropLog:
    """Each dropped document and its survivor, by the hashes (D,) of their ids."""
    log = DropLog()
    for rule, is_rule in (("exact", clusters.is_exact), ("near", ~clusters.is_exact)):
        dropped = np.flatnonzero(~clusters.is_kept & is_rule)
        log.add_twins(rule, hashes[dropped], of_survivors[dropped])
    return log
