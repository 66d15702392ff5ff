"""Deduplication in four phases, each a command of its own, for many machines and one directory.

    sign     shard i of n: read documents, write their keys                 sign-00002-of-00008/
    match    shard i of n: its range of all keys to pairs of documents      match-00002-of-00008...
    cluster  once: pairs to clusters                                        clusters.safetensors
    apply    shard i of n: read the documents again, write the survivors    its output

A shard is a run of whole input files, about equal in bytes. What is done is there whole and is not
done again; `dedup.json` holds the settings and inputs that all phases must agree on. The outputs of
`apply`, one after another, are the bytes of one run without phases.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from llmtools.data import cluster, dedup_units
from llmtools.data.bands import END
from llmtools.data.dedup import DedupSettings
from llmtools.data.dedup_index import Stored, all_names, attach_all
from llmtools.data.dedup_output import drop_log, write_decided
from llmtools.data.dedup_units import FORMAT, read_arrays, write_arrays
from llmtools.data.duplicates import Clusters, Signatures, as_clusters
from llmtools.errors import InputError, UsageError
from llmtools.formats.input_names import STDIO
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.manifest import Recorder, read_manifest
from llmtools.formats.output import claim_outputs, open_output, write_file
from llmtools.formats.replay import Replay
from llmtools.formats.skips import OnError, Skips, open_rejects
from llmtools.shards.place import Place

PLAN = "dedup.json"
CLUSTERS = "clusters.safetensors"


class Work:
    """The work directory: which files each shard reads, and where each phase writes.

    place: which shard this is; None where the phase is one for all. is_planned: nothing is written.
    """

    def __init__(
        self,
        folder: Path,
        inputs: Sequence[str],
        settings: DedupSettings,
        place: Place | None,
        *,
        is_planned: bool = False,
    ) -> None:
        if settings.verify_jaccard:
            raise UsageError("verify_jaccard compares texts of all shards; run dedup in one piece")
        files = [name for name in inputs if name != STDIO and os.path.isfile(name)]
        if len(files) < len(inputs):
            raise UsageError("phases read their input more than once; name regular files")
        self.folder, self.settings = folder, settings
        self.all_inputs = files
        old = self._plan()
        self.place = place or Place(count=int(old.get("shards", 1)))
        sizes = [os.path.getsize(file) for file in files]
        self._shares = _shares(files, sizes, self.place.count)
        plan = {
            "format": FORMAT,
            "shards": self.place.count,
            "settings": settings.decisive(),
            "inputs": dict(zip(files, sizes, strict=True)),
        }
        if old or not is_planned:
            self._agree(old, orjson.loads(orjson.dumps(plan)))

    def _plan(self) -> dict[str, Any]:
        """What the earlier phases had, {} where there was none."""
        path = self.folder / PLAN
        if not path.exists():
            return {}
        try:
            plan = orjson.loads(path.read_bytes())
        except orjson.JSONDecodeError as fault:
            raise InputError(f"{path}: not JSON: {fault.msg}") from fault
        if not isinstance(plan, dict) or plan.get("format") != FORMAT:
            raise InputError(f"{path}: not the plan of a dedup in phases")
        return plan

    def _agree(self, old: dict[str, Any], plan: dict[str, Any]) -> None:
        """Write the plan, or check that it is what the earlier phases had."""
        if not old:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_file(self.folder / PLAN, orjson.dumps(plan, option=orjson.OPT_INDENT_2))
            return
        changed = [key for key, value in plan.items() if old.get(key) != value]
        if changed:
            details = "; ".join(_differences(old, plan))
            raise UsageError(f"{self.folder} holds phases of other {', '.join(changed)}: {details}")

    @property
    def inputs(self) -> list[str]:
        """The files of this shard."""
        return self._shares[self.place.index]

    def path(self, phase: str, index: int | None = None) -> Path:
        """Where a shard of a phase writes; this one's, unless `index` says another."""
        number = self.place.index if index is None else index
        return self.folder / f"{phase}-{number:05d}-of-{self.place.count:05d}"

    def target(self, phase: str) -> Path:
        """What this shard of a phase writes, or the one that is for all."""
        return self.folder / CLUSTERS if phase == "cluster" else self.path(phase)

    def num_documents(self, shards: Iterable[int]) -> int | None:
        """How many documents some shards have; None where one was not signed yet."""
        paths = [self.path("sign", index) for index in shards]
        if not all(path.exists() for path in paths):
            return None
        return sum(Stored(path).num_documents for path in paths)

    def all_of(self, phase: str) -> list[Path]:
        """The outputs of all shards of a phase; raises InputError where some are missing."""
        paths = [self.path(phase, index) for index in range(self.place.count)]
        missing = [str(i) for i, path in enumerate(paths) if not path.exists()]
        if missing:
            shown = ", ".join(missing[:10]) + (" ..." if len(missing) > 10 else "")
            raise InputError(
                f"{self.folder}: phase {phase} is not done for shards {shown} of {len(paths)}"
            )
        return paths

    def stored(self) -> list[Stored]:
        """What the phase sign wrote, shard by shard."""
        return [Stored(path) for path in self.all_of("sign")]


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """'seed was 1, now 2' for each value that differs, also within tables."""
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            found += _differences(was, now)
        elif was != now:
            found.append(f"{key} was {_shown(was)}, now {_shown(now)}")
    return found


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)


def _shares(files: Sequence[str], sizes: Sequence[int], count: int) -> list[list[str]]:
    """Files in `count` runs of about equal bytes, in order; there may be empty ones."""
    total = max(1, sum(sizes))
    shares: list[list[str]] = [[] for _ in range(count)]
    before = 0
    for file, size in zip(files, sizes, strict=True):
        # By the middle of the file, so that the shares' ends are off by half a file at most.
        shares[min(count - 1, (2 * before + size) * count // (2 * total))].append(file)
        before += size
    return shares


def sign(work: Work, on_error: OnError = "fail") -> dict[str, Any]:
    """Write the keys of this shard's documents; returns the counts."""
    target = work.path("sign")
    if target.exists():
        return {"documents": Stored(target).num_documents, "done_before": True}
    return dedup_units.sign(work.inputs, str(target), work.settings, on_error=on_error)


def match(work: Work) -> dict[str, Any]:
    """Write the pairs of documents that share a key of this shard's range; returns the counts."""
    target = work.path("match")
    if target.exists():
        return {"done_before": True}
    low, high = (END * (work.place.index + i) // work.place.count for i in range(2))
    with Signatures(work.settings.minhash, work.settings.memory) as signatures:
        attach_all(work.stored(), signatures)
        found: dict[str, np.ndarray] = {}
        for name, bands in (("exact", signatures.exact), ("near", signatures.near)):
            pairs = [np.empty((0, 2), np.int64)]
            for band in range(bands.num_bands):
                for documents, keys in bands.chunks(band, low, high):
                    pairs.append(cluster.equal_pairs(documents, keys))
            found[name] = np.unique(np.concatenate(pairs), axis=0)
    write_arrays(target, found)
    return {f"pairs_{name}": len(pairs) for name, pairs in found.items()}


def link(work: Work) -> dict[str, Any]:
    """Write the clusters of all documents; returns the counts."""
    stored = work.stored()
    parents = cluster.singletons(sum(one.num_documents for one in stored))
    if not parents.size:
        raise NothingLeft(f"{work.folder}: no documents in the input")
    matched = [read_arrays(path, ("exact", "near"), "I64", 2)[1] for path in work.all_of("match")]
    for pairs in matched:
        _link(parents, pairs["exact"], work.folder)
    same_text = cluster.roots(parents)
    for pairs in matched:
        _link(parents, pairs["near"], work.folder)
    values = [one.values for one in stored if one.values is not None]
    found = as_clusters(
        cluster.roots(parents), same_text, values=np.concatenate(values) if values else None
    )
    arrays = {
        "root": found.root.astype(np.int64),
        "is_exact": found.is_exact.astype(np.int64),
        "size": found.size,
    }
    write_arrays(work.target("cluster"), arrays)
    return found.counts()


def _link(parents: cluster.Roots, pairs: np.ndarray, folder: Path) -> None:
    if pairs.size and not 0 <= pairs.min() <= pairs.max() < parents.size:
        raise InputError(f"{folder}: pairs of documents that are not there; sign has changed")
    cluster.link_pairs(parents, pairs)


def apply(
    work: Work,
    output: str,
    *,
    rejects: str | None = None,
    on_error: OnError = "fail",
    force: bool = False,
) -> dict[str, Any]:
    """Write this shard's survivors, an empty file where it has none; returns the counts."""
    settings = work.settings
    stored = work.stored()
    base = sum(one.num_documents for one in stored[: work.place.index])
    count = stored[work.place.index].num_documents
    hashes = np.concatenate([one.hashes for one in stored])
    needs_names = settings.cluster_ids or rejects is not None
    if not (work.target("cluster")).exists():
        raise InputError(f"{work.folder}: phase cluster is not done")
    _, arrays = read_arrays(work.target("cluster"), ("root", "is_exact", "size"), "I64", 1)
    own = {name: array[base : base + count] for name, array in arrays.items()}
    clusters = Clusters(own["root"], own["is_exact"].astype(np.bool_), base)
    destinations = [output] if rejects is None else [output, rejects]
    recorder = Recorder("dedup", {"phase": "apply", **settings.decisive()})
    skips = Skips(on_error, adds_metadata=needs_names)
    with ExitStack() as stack:
        stack.enter_context(claim_outputs(destinations, force=force, is_directory=False))
        skips.sink = stack.enter_context(open_rejects(rejects, force=force))
        replay = stack.enter_context(
            Replay(work.inputs, text_key=settings.text_key, id_key=settings.id_key, skips=skips)
        )
        read = sum(1 for _ in replay.documents(recorder.read))
        signed = read_manifest(work.path("sign")) or {}
        if _digests(recorder.inputs) != _digests(signed.get("inputs", [])):
            raise InputError(f"{', '.join(work.inputs)}: changed since the phase sign")
        if read != count:
            raise InputError(
                f"{', '.join(work.inputs)}: {count - read:,} documents have a metadata that is no"
                " object, which is malformed only for --rejects, and the phase sign knew of none;"
                " leave --rejects out, or mend them"
            )
        kept = stack.enter_context(open_output(output, force=force))
        sinks = [kept] if skips.sink is None else [kept, skips.sink]
        sizes = own["size"] if settings.cluster_ids else None
        names = all_names(stored, None) if needs_names else None
        write_decided(replay, clusters, names, sizes, sinks)
        for sink in sinks:
            sink.flush()
    counts = clusters.counts() | {"documents_skipped": skips.count}
    recorder.count(**counts)
    recorder.drops = drop_log(clusters, hashes[base : base + count], hashes[own["root"]])
    for sink in sinks:
        recorder.wrote(sink)
    recorder.write_beside(*destinations)
    return counts


def _digests(entries: Sequence[dict[str, Any]]) -> list[str]:
    return [entry["digest"] for entry in entries]
