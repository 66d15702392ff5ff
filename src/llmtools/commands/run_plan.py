"""What `llm run --dry-run` says of memory, disk and time: each stage's own --dry-run, in a row.

A later stage is planned as if every document stayed, with documents like the first ones.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from llmtools.commands.unit_calls import call_stage
from llmtools.errors import UsageError
from llmtools.formats.input_names import COMPRESSION_SUFFIXES, STDIO
from llmtools.formats.tokens import PIPE_FRAME_BYTES
from llmtools.plan.estimate import Estimate, Plan
from llmtools.plan.inputs import SAMPLE_BYTES, Assumed, Frames, Sample, assuming, sample_documents
from llmtools.shards.pipeline import APPLY, KINDS, LINK, SIGN, Phase, Pipeline
from llmtools.shards.unit import Stage

# The process that hands out units.
RUNNER_BYTES = 60_000_000
# A process that signs or applies a part of the input, its kernels loaded.
PART_BYTES = 65_000_000


def plan_run(
    pipeline: Pipeline, phases: Sequence[Phase], workers: int, command: str = "run"
) -> Plan:
    """Peaks and time of a run, or of one command in units.

    Raises UsageError with what a stage's own plan refuses.
    """
    plans = _plan_stages(pipeline)
    memory = disk = seconds = before = 0.0
    for number, phase in enumerate(phases):
        own = plans[phase.first : phase.first + len(phase.stages)]
        at_once = 1 if phase.is_barrier else workers
        part = phase.stages[0].part
        # Of a divided stage one process holds the keys of all documents, while it links them.
        each = max(_value(one, "memory_bytes") for one in own) if part in ("", LINK) else PART_BYTES
        memory = max(memory, at_once * each)
        if part in ("", SIGN):
            # Signing reads and hashes; writing what stays is little beside it.
            seconds += sum(_value(one, "time_s") for one in own) / at_once
        written = _value(own[-1], "disk_bytes") if part in ("", APPLY) else 0.0
        if number == len(phases) - 1 and not phase.is_barrier:
            # Parts are not compressed, and stand beside the output until it is whole.
            is_small = Path(pipeline.output).suffix in COMPRESSION_SUFFIXES[1:]
            written += _value(own[0], "input_bytes") if is_small else written
        disk = max(disk, before + written)
        before = written if part in ("", APPLY) else before
    basis = "each stage's own --dry-run, as if every document stayed"
    return Plan(
        command=command,
        memory=Estimate(value=RUNNER_BYTES + memory, basis=f"{basis}; {workers} workers"),
        disk=Estimate(value=disk, basis=f"{basis}; parts of two phases at a time"),
        time=Estimate(value=seconds, basis=f"{basis}; {workers} workers on as many cores"),
        outputs=[pipeline.output, *(path for path in pipeline.rejects if path is not None)],
        facts=(
            {one["command"]: _in_words(one) for one in plans}
            if command == "run"
            else plans[0]["facts"] | {"workers": workers}
        ),
    )


def _value(plan: dict[str, Any], key: str) -> float:
    value = plan.get(key, plan["facts"].get(key))
    return float(value or 0)


def _in_words(plan: dict[str, Any]) -> str:
    words = [f"{_value(plan, key) / 1e6:,.1f} MB of {name}" for key, name in
             (("memory_bytes", "memory"), ("disk_bytes", "output"))]  # fmt: skip
    return ", ".join([*words, f"{_value(plan, 'time_s'):,.1f} s on one core"])


def _plan_stages(pipeline: Pipeline) -> list[dict[str, Any]]:
    plans: list[dict[str, Any]] = []
    assumed: Assumed | None = None
    with tempfile.TemporaryDirectory() as scratch:
        for number, stage in enumerate(pipeline.stages):
            is_last = number == len(pipeline.stages) - 1
            suffix = ".safetensors" if KINDS[stage.name].writes == "token frames" else ".jsonl"
            values = stage.values | {"dry_run": True, "force": pipeline.force or not is_last}
            values["output"] = pipeline.output if is_last else f"{scratch}/{number}{suffix}"
            if assumed is None:
                first = "paths" if stage.name == "extract" else "inputs"
                values |= {first: list(pipeline.inputs)}
                values |= {"files_from": None} if stage.name == "extract" else {}
                plan = _call(number, stage, values)
            else:
                with assuming(assumed):
                    plan = _call(number, stage, values | {"inputs": [STDIO]})
            plans.append(plan)
            if not is_last:
                sample = _first_sample(pipeline) if assumed is None else assumed.sample
                assumed = _after(stage, plan, sample)
    return plans


def _call(number: int, stage: Stage, values: dict[str, Any]) -> dict[str, Any]:
    code, message, _, plan = call_stage(stage, values)
    if code or plan is None:
        raise UsageError(f"stage {number + 1} ({stage.title}): {message}")
    return plan


def _first_sample(pipeline: Pipeline) -> Sample:
    """The first documents that the first stage gives."""
    from llmtools.data.extract import ExtractSettings, Passed, expand_arguments, find_files
    from llmtools.formats.input_names import expand_inputs

    first = pipeline.stages[0]
    empty = Sample(raw=[], ids=[], texts=[])
    if first.name == "detokenize":
        return empty
    if first.name != "extract":
        return sample_documents(
            expand_inputs(pipeline.inputs),
            text_key=first.values["text_key"],
            id_key=first.values.get("id_key", "id"),
            on_error="skip",
        )
    include, exclude = (tuple(first.values[key] or ()) for key in ("include", "exclude"))
    settings = ExtractSettings(
        include=include, exclude=exclude, max_bytes=first.values["max_bytes"]
    )
    taken = 0
    for argument in expand_arguments(list(pipeline.inputs)):
        for path, name in find_files(argument, settings, Passed("skip")):
            if taken >= SAMPLE_BYTES or not os.path.isfile(path):
                continue
            with open(path, "rb") as file:
                text = file.read(SAMPLE_BYTES).decode(errors="replace")
            empty.raw.append(orjson.dumps({"id": name, "text": text, "metadata": {"path": name}}))
            empty.ids.append(name)
            empty.texts.append(text)
            taken += len(text)
    return empty


def _after(stage: Stage, plan: dict[str, Any], sample: Sample) -> Assumed:
    """What the next stage would read."""
    content = round(_value(plan, "input_bytes" if stage.name == "filter" else "disk_bytes"))
    if KINDS[stage.name].writes != "token frames":
        return Assumed(content=content, sample=sample)
    from llmtools.data.encode import EncodeSettings, frame_vocabulary
    from llmtools.tokenizer.load import load_tokenizer

    values = stage.values
    settings = EncodeSettings(add_bos=values["bos"], add_eos=not values["no_eos"])
    frames = Frames(
        vocabulary=frame_vocabulary(load_tokenizer(values["tokenizer"]), settings),
        documents=round(sample.documents_in(round(_value(plan, "input_bytes")))),
        tokens=round(_value(plan, "tokens_about")),
        largest=PIPE_FRAME_BYTES,
        has_masks=False,
    )
    return Assumed(content=content, sample=sample, frames=frames)
