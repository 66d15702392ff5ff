"""Plans of dedup's phases: each of one shard, with what the phases before it left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from llmtools.data.dedup_phases import Work
from llmtools.formats.skips import OnError
from llmtools.plan.costs import (
    COSTS,
    MB,
    MEASURED,
    check_files,
    disk_of,
    facts_of,
    time_of,
    with_reader,
    with_rejects,
)
from llmtools.plan.estimate import Estimate, Plan
from llmtools.plan.inputs import Sample, measure_inputs, sample_documents

Phase = Literal["sign", "match", "cluster", "apply"]

# Bytes of memory: a document that is signed, beside its bucket keys and id; one whose keys are
# compared or whose cluster is known; what is read of one beside its id. Measured with 300,000
# documents of 190 bytes, in one shard and in four.
_SIGNED, _LINKED, _STORED = 160, 40, 16
# What the process takes that compares keys, and the one that reads and writes documents.
_LINKING, _READING = 50 * MB, 58 * MB
# Seconds for all keys of a document.
_LINK_S = 5e-7
# Bytes on disk, beside the id: a bucket key; digest and hash and place of the id; a cluster.
_KEY, _DOCUMENT, _CLUSTER = 12, 28, 24


def plan_phase(
    phase: Phase,
    work: Work,
    output: str,
    *,
    rejects: str | None = None,
    on_error: OnError = "fail",
    force: bool = False,
) -> Plan:
    """What a phase would take for its shard; raises for inputs and outputs that it would refuse.

    How many documents there are is known where the phase sign is done, and estimated before.
    """
    settings = work.settings
    if phase == "apply":
        check_files(with_rejects(output, rejects), force=force)
    sample = sample_documents(
        work.inputs or work.all_inputs,
        text_key=settings.text_key,
        id_key=settings.id_key,
        on_error=on_error,
    )
    id_bytes = sum(map(len, sample.ids)) // max(len(sample.ids), 1)
    total = _documents(work, range(work.place.count), work.all_inputs, sample)
    own = _documents(work, [work.place.index], work.inputs, sample)
    sizes = measure_inputs(work.inputs)
    content = sizes.content or 0
    stored = _STORED + id_bytes
    buckets = settings.minhash.num_buckets
    outputs = [str(work.target(phase))]
    linked = Estimate(
        value=COSTS["dedup"].start_s + _LINK_S * total, basis=f"documents, {MEASURED}"
    )
    if phase == "sign":
        each = 8 * buckets + _SIGNED + id_bytes
        memory = _limited(COSTS["dedup"].memory + own * each, each, settings.memory)
        size = own * (_KEY * buckets + _DOCUMENT + id_bytes)
        disk = Estimate(value=size, basis="documents and buckets")
        time = time_of("dedup", content, own)
    elif phase == "match":
        value = _LINKING + total * stored + total * _LINKED // work.place.count
        memory = _limited(value, stored + _LINKED, settings.memory)
        disk = Estimate(value=None, basis="unknown (16 bytes for each pair that is found)")
        time = linked
    elif phase == "cluster":
        memory = _of_all(_LINKING, stored + _LINKED, total)
        disk = Estimate(value=_CLUSTER * total, basis=f"{_CLUSTER} bytes a document")
        time = linked
    else:
        outputs = with_rejects(output, rejects)
        names = 2 * stored if settings.cluster_ids or rejects is not None else 0
        memory = _of_all(_READING, stored + _LINKED + names, total)
        share = sample.stored_share(output)
        basis = "the shard's input; at most, if every document stays"
        disk = disk_of(Estimate(value=share * content, basis=basis), output)
        time = time_of("dedup", content, own)
    is_of_all = phase == "cluster"
    reads = phase in ("sign", "apply")
    return Plan(
        command=f"dedup --phase {phase}",
        memory=with_reader(memory, sizes) if reads else memory,
        disk=disk,
        time=time,
        outputs=outputs,
        facts=facts_of(
            work.all_inputs if is_of_all else work.inputs,
            content if reads else None,
            shard=None if is_of_all else f"{work.place.index}/{work.place.count}",
            documents_about=own if reads else total,
        ),
    )


def _documents(work: Work, shards: Sequence[int], files: Sequence[str], sample: Sample) -> int:
    """How many documents some shards have: as the phase sign counted, or about so many."""
    counted = work.num_documents(shards)
    if counted is not None:
        return counted
    content = measure_inputs(files).content or 0
    return round(sample.documents_in(content)) if sample.raw else 0


def _of_all(base: float, each: int, documents: int) -> Estimate:
    return Estimate(value=base + each * documents, basis=f"{each} bytes a document of all shards")


def _limited(value: float, each: int, limit: int | None) -> Estimate:
    told = f"{each} bytes a document"
    if limit is not None and value > limit:
        return Estimate(value=limit, basis=f"--memory; keys beyond it go to disk; {told}")
    return Estimate(value=value, basis=told)
