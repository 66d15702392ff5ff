"""Plans of extract, filter and dedup: the checks of a real run, then memory, disk and time."""

from __future__ import annotations

import os

from llmtools.data.extract import (
    ExtractSettings,
    Passed,
    check_listed,
    expand_arguments,
    find_files,
)
from llmtools.errors import InputError
from llmtools.formats.skips import OnError
from llmtools.plan.costs import (
    COSTS,
    check_files,
    disk_of,
    plan_documents,
    time_of,
    with_rejects,
)
from llmtools.plan.estimate import Estimate, Plan
from llmtools.plan.inputs import (
    measure_inputs,
    sample_documents,
)

# Bytes a document, and of methods that cut inside texts, for each byte of input; both rounded up
# from what prose, code and text in 46 languages took.
DEDUP_METHODS = {"exact": 64, "simhash": 16, "semantic": 32}
DEDUP_TEXT = {"line": 2, "paragraph": 1, "sentence": 2, "substring": 9}
# Of each document dedup keeps, beside its bucket keys: digest, length, parent, and room to sort.
DEDUP_DOCUMENT = 240
DEDUP_ID = 64


def plan_extract(
    paths: list[str],
    output: str,
    settings: ExtractSettings,
    *,
    files: list[str] | None = None,
    rejects: str | None,
    force: bool,
) -> Plan:
    """Walks the tree and asks for the sizes of files; reads none."""
    arguments = expand_arguments(paths)
    check_listed(arguments, files, settings)
    check_files(with_rejects(output, rejects), force=force)
    passed = Passed()
    sizes = []
    for argument in arguments:
        for file, _ in find_files(argument, settings, passed, files):
            size = os.stat(file).st_size if os.path.isfile(file) else 0
            if size <= settings.max_bytes:
                sizes.append(size)
    if not sizes:
        raise InputError(f"{', '.join(paths)}: no file to read here")
    total = sum(sizes)
    cost = COSTS["extract"]
    return Plan(
        command="extract",
        # A file is in memory as bytes, text, JSON and block.
        memory=Estimate(value=cost.memory + 8 * max(sizes), basis="the largest file"),
        disk=disk_of(
            Estimate(value=1.05 * total, basis="file sizes; at most, if all are text"), output
        ),
        time=time_of("extract", total),
        outputs=with_rejects(output, rejects),
        facts={"files": len(sizes), "input_bytes": total, "largest_file": max(sizes)},
    )


def plan_filter(
    names: list[str],
    output: str,
    *,
    rejects: str | None,
    on_error: OnError,
    text_key: str,
    id_key: str,
    force: bool,
) -> Plan:
    """Memory is that of one batch, whatever the input."""
    outputs = with_rejects(output, rejects)
    check_files(outputs, force=force)
    sample = sample_documents(names, text_key=text_key, id_key=id_key, on_error=on_error)
    peak = Estimate(value=COSTS["filter"].memory, basis="one batch of documents, measured")
    return plan_documents("filter", names, outputs, sample, lambda documents, basis: peak)


def plan_dedup(
    names: list[str],
    output: str,
    *,
    method: str = "minhash",
    num_buckets: int,
    keeps_ids: bool,
    limit: int | None = None,
    rejects: str | None,
    on_error: OnError,
    text_key: str,
    id_key: str,
    force: bool,
) -> Plan:
    """Memory grows with the number of documents, or with the text where methods cut inside it.

    limit: bytes that --memory allows.
    """
    outputs = with_rejects(output, rejects)
    check_files(outputs, force=force)
    sample = sample_documents(names, text_key=text_key, id_key=id_key, on_error=on_error)
    each = DEDUP_METHODS.get(method, 8 * num_buckets) + DEDUP_DOCUMENT
    if keeps_ids and sample.ids:
        each += DEDUP_ID + sum(map(len, sample.ids)) // len(sample.ids)

    def memory(documents: int, basis: str) -> Estimate:
        value = COSTS["dedup"].memory + documents * each
        told = f"{each} bytes a document; {basis}"
        if method in DEDUP_TEXT:
            share = DEDUP_TEXT[method]
            value = COSTS["dedup"].memory + share * (measure_inputs(names).content or 0)
            told = f"{share} bytes for each byte of input; {basis}"
        if limit is not None and value > limit:
            return Estimate(value=limit, basis=f"--memory; keys beyond it go to disk; {told}")
        return Estimate(value=value, basis=told)

    return plan_documents("dedup", names, outputs, sample, memory)
