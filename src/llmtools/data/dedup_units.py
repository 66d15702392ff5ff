"""Deduplication as units of the runner: parts of the input, and one look at all of them between.

    sign    a part of the input: its documents' keys                  a directory, as an index is
    link    once: all keys to clusters, cut by parts again            a directory, a file a part
    apply   the same part and its file: survivors and rejects         documents

What `apply` needs of other parts, the ids of survivors and their hashes, is in its file: nobody but
`link` holds more than a part.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools import terminal
from llmtools.data.batch import batches
from llmtools.data.dedup import DedupSettings, Gathered
from llmtools.data.dedup_index import Names, Stored, all_names, attach_all
from llmtools.data.dedup_output import drop_log, write_decided
from llmtools.data.duplicates import Clusters, Signatures, as_clusters
from llmtools.data.keep import Keep
from llmtools.errors import InputError, ResourceError
from llmtools.formats import tensor_header
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import atomic_directory, open_output
from llmtools.formats.replay import Reading, Replay
from llmtools.formats.skips import OnError, Skips, open_rejects
from llmtools.formats.tokens import check_offsets, typed_view

FORMAT = "llmtools/dedup@1"
# Files that are open beside those of the parts.
OTHER_FILES = 64


def sign(
    inputs: Sequence[str],
    output: str,
    settings: DedupSettings,
    *,
    rejects: str | None = None,
    on_error: OnError = "fail",
    force: bool = False,
) -> dict[str, Any]:
    """Write the keys of some documents to a directory; returns the counts.

    rejects: malformed ones; where it is named, survivors will be named in metadata.
    """
    recorder = Recorder("dedup", {"phase": "sign", **settings.decisive()})
    gathered = Gathered(settings, needs_ids=True)
    skips = Skips(on_error, adds_metadata=settings.cluster_ids or rejects is not None)
    with (
        atomic_directory(output, force=force) as folder,
        open_rejects(rejects, force=force) as skips.sink,
        Signatures(settings.minhash, settings.memory) as signatures,
        terminal.progress("sign", unit="doc") as bar,
        Replay(
            inputs,
            text_key=settings.text_key,
            id_key=settings.id_key,
            skips=skips,
            spools=False,
        ) as replay,
    ):
        for batch in batches(gathered.watch(replay.documents(recorder.read))):
            signatures.add(batch)
            bar.update(len(batch.documents))
        gathered.store(folder, signatures, replay.reading)
        recorder.count(documents=signatures.num_documents)
        skips.record(recorder)
        recorder.wrote_tree(folder)
        recorder.write_beside(folder)
    return {"documents": signatures.num_documents, "documents_skipped": skips.count}


def link(
    folders: Sequence[str], output: str, settings: DedupSettings, *, needs_names: bool, force: bool
) -> dict[str, Any]:
    """Cluster the documents of all parts; write each part's decisions; returns the counts.

    Raises NothingLeft where no part has documents, InputError where none has what the keep rule
    needs, ResourceError where so many parts cannot be open at once.
    """
    _allow_files(2 * len(folders) + OTHER_FILES)
    stored = [Stored(Path(folder)) for folder in folders]
    bases = np.cumsum([0, *(one.num_documents for one in stored)])
    total = int(bases[-1])
    if not total:
        dropped = sum(one.reading.dropped.size for one in stored if one.reading is not None)
        skipped = f" ({dropped:,} malformed records were skipped)" if dropped else ""
        raise NothingLeft(f"no documents in the input{skipped}")
    with Signatures(settings.minhash, settings.memory, total) as signatures:
        attach_all(stored, signatures)
        root, same_text = signatures.link()
    values = [one.values for one in stored if one.values is not None]
    keep = Keep(settings.keep)
    for part in values:
        keep.saw(part)
    keep.check("the input")
    found = as_clusters(root, same_text, values=np.concatenate(values) if values else None)
    sizes = found.size
    hashes = np.concatenate([one.hashes for one in stored])
    names = all_names(stored if needs_names else (), None)
    with atomic_directory(output, force=force) as folder:
        for number, one in enumerate(stored):
            own = slice(int(bases[number]), int(bases[number + 1]))
            assert one.reading is not None
            arrays = {
                "root": found.root[own].astype(np.int64),
                "is_exact": found.is_exact[own].astype(np.int64),
                "size": sizes[own],
                "hash": hashes[own].view(np.int64),
                "survivor_hash": hashes[found.root[own]].view(np.int64),
                "dropped": one.reading.dropped,
            }
            if needs_names:
                arrays |= _names_of(np.union1d(found.root[own], np.r_[own]), names)
            facts = {"base": str(own.start), "digests": " ".join(one.reading.digests)}
            write_arrays(decisions_path(folder, number), arrays, facts)
    return found.counts()


def decisions_path(folder: Path, number: int) -> Path:
    """The file of a part."""
    return folder / f"{number:05d}.safetensors"


def _allow_files(count: int) -> None:
    """Let this process have so many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and count > hard:
        raise ResourceError(
            f"{count:,} files must be open at once, and this process may have {hard:,}"
            " (ulimit -Hn); take larger units with --shard-bytes"
        )
    if soft != resource.RLIM_INFINITY and count > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def _names_of(numbers: npt.NDArray[np.int64], names: Names) -> dict[str, np.ndarray]:
    chosen = Names()
    for number in numbers.tolist():
        chosen.add(names[number])
    return {"named": numbers, **chosen.arrays()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What `link` decided of a part's D documents.

    sizes: (D,) of their clusters. hashes, of_survivors: (D,) uint64. names: ids by number of the
    documents and their survivors, None where nothing names them. reading: how `sign` read the part.
    """

    clusters: Clusters
    sizes: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]
    of_survivors: npt.NDArray[np.uint64]
    names: Mapping[int, str] | None
    reading: Reading


def read_decisions(path: Path) -> Decisions:
    """The file of a part; raises InputError where it is none."""
    header, found = read_arrays(
        path, ("root", "is_exact", "size", "hash", "survivor_hash", "dropped"), "I64", 1
    )
    names: dict[int, str] | None = None
    if "named" in header.tensors:
        _, arrays = read_arrays(path, ("named", "id_offsets"), "I64", 1)
        _, text = read_arrays(path, ("ids",), "U8", 1)
        check_offsets(arrays["id_offsets"], arrays["named"].size, text["ids"].size, str(path))
        chosen = Names()
        chosen.extend(text["ids"], arrays["id_offsets"])
        names = {number: chosen[at] for at, number in enumerate(arrays["named"].tolist())}
    return Decisions(
        clusters=Clusters(
            found["root"], found["is_exact"].astype(np.bool_), int(header.metadata["base"])
        ),
        sizes=found["size"],
        hashes=found["hash"].view(np.uint64),
        of_survivors=found["survivor_hash"].view(np.uint64),
        names=names,
        reading=Reading(
            num_documents=found["root"].size,
            dropped=found["dropped"],
            digests=tuple(header.metadata["digests"].split()),
        ),
    )


def apply(
    inputs: Sequence[str],
    output: str,
    settings: DedupSettings,
    decisions: Decisions,
    *,
    rejects: str | None = None,
    force: bool = False,
) -> None:
    """Write a part's survivors, an empty file where it has none; raises InputError where the input
    is not what `sign` read."""
    recorder = Recorder("dedup", {"phase": "apply", **settings.decisive()})
    clusters = decisions.clusters
    with ExitStack() as stack:
        sink = stack.enter_context(open_rejects(rejects, force=force))
        replay = stack.enter_context(Replay(inputs, reading=decisions.reading))
        kept = stack.enter_context(open_output(output, force=force))
        sinks = [kept] if sink is None else [kept, sink]
        sizes = decisions.sizes if settings.cluster_ids else None
        write_decided(replay, clusters, decisions.names, sizes, sinks, recorder.read)
        for one in sinks:
            one.flush()
    recorder.count(documents_in=clusters.root.size, documents_kept=int(clusters.is_kept.sum()))
    recorder.drops = drop_log(clusters, decisions.hashes, decisions.of_survivors)
    for one in sinks:
        recorder.wrote(one)
    recorder.write_beside(*([output] if rejects is None else [output, rejects]))


def write_arrays(
    path: Path, arrays: dict[str, np.ndarray], facts: Mapping[str, str] | None = None
) -> None:
    """Write tensors as one file of the work directory."""
    with open_output(str(path), force=True, compress=False) as out:
        for piece in tensor_header.dump(arrays, {"format": FORMAT, **(facts or {})}):
            out.write(piece)


def read_arrays(
    path: Path, names: Sequence[str], dtype: str, num_dims: int
) -> tuple[tensor_header.Header, dict[str, np.ndarray]]:
    """Tensors of one file and its header; raises InputError where they are not all there."""
    with open(path, "rb") as file:
        header = tensor_header.read_header(file, str(path))
        if header is None or header.metadata.get("format") != FORMAT:
            raise InputError(f"{path}: not written by a phase of dedup")
        data = tensor_header.read_exactly(file, header.data_bytes, str(path))
    found = {name: typed_view(header, data, name, (dtype,), num_dims, str(path)) for name in names}
    if num_dims == 2 and any(array.shape[1] != 2 for array in found.values()):
        raise InputError(f"{path}: not pairs")
    return header, found
