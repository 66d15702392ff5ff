"""What data commands take, as measured, and what all of their plans say.

Throughput and memory were measured with the prose corpus (31 MB of JSON lines, 11,580 documents) on
a shared 2-core Zen 4 machine; see docs/log.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmtools.errors import UsageError
from llmtools.formats.input_names import STDIO
from llmtools.formats.output import check_outputs
from llmtools.formats.skips import OnError, check_rejects
from llmtools.plan.estimate import UNKNOWN_INPUT, Estimate, Plan
from llmtools.plan.inputs import Sample, Sizes, measure_inputs, sample_documents

MB = 1e6
MEASURED = "throughput measured on a 2-core machine"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a data command takes: seconds to start, input bytes a second, bytes of memory.

    document_s: seconds a document takes beside its bytes, where short ones are what counts.
    """

    start_s: float
    rate: float
    memory: float
    document_s: float = 0.0


# start-up, MB/s of decompressed input, MB at its peak on batches of full size.
COSTS = {
    "extract": Cost(0.2, 100 * MB, 34 * MB),
    "filter": Cost(0.2, 60 * MB, 75 * MB, 5e-6),
    "dedup": Cost(0.2, 80 * MB, 65 * MB, 8e-6),
    "tokenizer train": Cost(0.3, 24 * MB, 60 * MB),
    "tokenizer compare": Cost(0.3, 2 * MB, 60 * MB),
    "score": Cost(0.3, 15 * MB, 80 * MB),
    "scorer train": Cost(0.3, 3 * MB, 65 * MB),
    "tokenize": Cost(0.3, 5 * MB, 75 * MB),
    "detokenize": Cost(0.3, 11 * MB, 66 * MB),
    "pack": Cost(0.3, 45 * MB, 55 * MB),
}


def time_of(command: str, content: int | None, documents: int | None = None) -> Estimate:
    """From the bytes of the input, None where they are not known, and its documents if they are."""
    if content is None:
        return UNKNOWN_INPUT
    cost = COSTS[command]
    value = cost.start_s + content / cost.rate + cost.document_s * (documents or 0)
    return Estimate(value=value, basis=f"input size, {MEASURED}")


def with_reader(memory: Estimate, sizes: Sizes) -> Estimate:
    """Memory with that of reading the inputs, where it is not that of lines."""
    if memory.value is None or not sizes.reader_bytes:
        return memory
    return Estimate(value=memory.value + sizes.reader_bytes, basis=f"pyarrow; {memory.basis}")


def facts_of(names: Sequence[str], content: int | None, **more: Any) -> dict[str, Any]:
    """What is known about the inputs, and whatever else is not None."""
    facts: dict[str, Any] = {"inputs": len(names)}
    if content is not None:
        facts["input_bytes"] = content
    return facts | {key: value for key, value in more.items() if value is not None}


def with_rejects(output: str, rejects: str | None) -> list[str]:
    """All outputs of a command."""
    return [output] if rejects is None else [output, rejects]


def check_files(paths: list[str], *, force: bool) -> None:
    """Refuse outputs that a run would refuse, directories where it writes files among them."""
    check_outputs(paths, force=force)
    for path in paths:
        if os.path.isdir(path):
            raise UsageError(f"{path} is a directory; name a file")


def checked_sizes(
    names: list[str],
    outputs: list[str],
    *,
    rejects: str | None,
    on_error: OnError,
    text_key: str,
    force: bool,
) -> Sizes:
    """The sizes of the inputs of a command that trains, after the checks that a run would make."""
    check_rejects(outputs[0], rejects, on_error, force=force)
    check_files(outputs, force=force)
    sample_documents(names, text_key=text_key, on_error=on_error)
    return measure_inputs(names)


def disk_of(estimate: Estimate, output: str) -> Estimate:
    """Nothing where the output is a pipe."""
    return Estimate(value=0, basis="stdout") if output == STDIO else estimate


def plan_documents(
    command: str,
    names: Sequence[str],
    outputs: list[str],
    sample: Sample,
    memory_of: Any,
) -> Plan:
    """The plan of a command whose output is documents, at most all that came in."""
    sizes = measure_inputs(names)
    documents = None
    disk = memory = UNKNOWN_INPUT
    if sizes.content is not None:
        documents = round(sample.documents_in(sizes.content)) if sample.raw else 0
        share = sample.stored_share(outputs[0])
        basis = f"at most, if every document stays; {sizes.basis}"
        disk = Estimate(value=share * sizes.content, basis=basis)
        memory = memory_of(documents, sizes.basis)
    elif command in ("filter", "score"):
        memory = memory_of(0, "")
    return Plan(
        command=command,
        memory=with_reader(memory, sizes),
        disk=disk_of(disk, outputs[0]),
        time=time_of(command, sizes.content, documents),
        outputs=outputs,
        facts=facts_of(names, sizes.content, documents_about=documents),
    )
