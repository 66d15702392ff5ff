"""Commands in units: what --workers, --executor and --work-dir ask for, and the workers themselves.

`python -m llmtools.commands.sharding` is a worker process. It is given units as lines of JSON on
stdin, answers each with its outcome on stdout, and ends when stdin does.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmtools import terminal
from llmtools.commands.common import byte_size, report, resume_command
from llmtools.commands.pack_stages import pack_stages
from llmtools.commands.pipelines import make_pipeline, misplaced, settings_of
from llmtools.commands.sources import source_of
from llmtools.commands.unit_calls import rehearse, run_unit
from llmtools.errors import LLMToolsError, UsageError
from llmtools.formats.claim import remove
from llmtools.formats.output import check_distinct, check_outputs
from llmtools.shards import runner
from llmtools.shards.pipeline import Pipeline, phases
from llmtools.shards.place import Executor, find_place, num_cpus
from llmtools.shards.unit import Stage, unit_from

PROGRAM = [sys.executable, "-P", "-m", "llmtools.commands.sharding"]


def run_in_units(
    name: str,
    values: dict[str, Any],
    *,
    workers: int | None,
    work_dir: Path | None,
    shard_bytes: str,
    resume: bool,
    executor: Executor,
    shard: str | None,
    ray_address: str | None,
) -> None:
    """One command over its files in units: what --workers asks for."""
    pipeline = _as_pipeline(name, values)
    place = find_place(executor, shard, os.environ)
    if place.is_shared and work_dir is None:
        raise UsageError("--executor slurm and --shard need --work-dir, which all processes see")
    stats = None if values.get("stats") is None else str(values["stats"])
    asked = [path for path in pipeline.rejects if path is not None]
    check_distinct([pipeline.output, *asked, *([] if stats is None else [stats])])
    if stats is not None and not place.is_shared:
        check_outputs([stats], force=pipeline.force)
    size = byte_size("--shard-bytes", shard_bytes)
    output = Path(pipeline.output)
    hidden = output.absolute().with_name(f".{output.name}.llmtools-work")
    folder = hidden if work_dir is None else work_dir
    if workers is None and executor == "local" and shard is None:
        workers = 1
    if all(phase.is_barrier for phase in phases(pipeline.stages)):
        terminal.note(f"{name}: needs its whole input at once with these settings, so one unit")
    totals = runner.run(
        runner.Job(
            pipeline=pipeline,
            source=source_of(pipeline, size),
            folder=folder,
            open_pool=find_pool(executor, workers, ray_address, folder),
            settings=settings_of(pipeline),
            shard_bytes=size,
            resume=resume,
            resume_command=resume_command("llm"),
            place=place,
        )
    )
    if work_dir is None:
        remove(hidden)
    counts = _counts_of(totals["stages"])
    if stats is not None:
        from llmtools.data.filter import write_stats

        write_stats(stats, counts["rules"])
    report(counts, f"{name}: {count_line(counts)} (units: {totals['units']:,})")


def plan_in_units(
    name: str,
    values: dict[str, Any],
    *,
    workers: int | None,
    shard_bytes: str,
    executor: Executor,
    **places: Any,
) -> None:
    """What the same would take of this machine: its --dry-run.

    places: where it would run, which changes nothing of that.
    """
    pipeline = _as_pipeline(name, values)
    byte_size("--shard-bytes", shard_bytes)
    if workers is None and executor == "local" and places["shard"] is None:
        workers = 1
    found = estimate(pipeline, workers, name)
    if terminal.display().json:
        terminal.emit_json(found["plan"])
    else:
        terminal.emit_text(found["text"])


def _as_pipeline(name: str, values: dict[str, Any]) -> Pipeline:
    mistakes = misplaced(values, is_first=True, is_last=True)
    if mistakes:
        raise UsageError("--workers, --executor and --work-dir: " + "; ".join(mistakes))
    return make_pipeline(*(pack_stages(values) if name == "pack" else ([name], [values])))


def _counts_of(stages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The report of one command that ran as several stages: the last one's, and all skips."""
    counts = {key: value for key, value in stages[-1].items() if key != "stage"}
    if len(stages) > 1:
        counts["documents_skipped"] = sum(found.get("documents_skipped", 0) for found in stages)
    return counts


def find_pool(
    executor: Executor, workers: int | None, ray_address: str | None, folder: Path
) -> Callable[[], AbstractContextManager[runner.Pool]]:
    """What makes the pool of an executor; all this machine's or cluster's CPUs where None."""
    if ray_address is not None and executor != "ray":
        raise UsageError("--ray-address has no effect without --executor ray")
    if executor == "ray":
        from llmtools.shards.ray_pool import RayPool, Settings, check_ray

        check_ray()
        settings = Settings(
            target="llmtools.commands.sharding:answer",
            workers=workers,
            address=ray_address,
            folder=str(folder),
        )
        return lambda: RayPool(settings)
    from llmtools.shards.local import Pool

    count = workers or num_cpus()
    return lambda: Pool(PROGRAM, count)


def count_line(counts: Mapping[str, Any]) -> str:
    """The whole numbers of a report in words; tables in it are left to --json."""
    found = {key: value for key, value in counts.items() if isinstance(value, int)}
    return ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in found.items())


def answer(line: str | bytes) -> str:
    """A request to a worker, a unit or a rehearsal, and its answer, both JSON."""
    request = json.loads(line)
    found: dict[str, Any]
    if "plan" in request:
        found = _answer_plan(request)
    elif "rehearse" in request:
        stages = [Stage(**item) for item in request["rehearse"]]
        found = {"mistakes": rehearse(stages, request["folder"])}
    else:
        found = asdict(run_unit(unit_from(request["unit"])))
    return json.dumps(found)


def estimate(pipeline: Pipeline, workers: int | None, command: str = "run") -> dict[str, Any]:
    """The plan of a run, as JSON and as text; made by a worker, as stages change their process.

    command: what the plan is called; one that is no `run` has the facts of its own plan.
    Raises UsageError or InputError for what a stage's own --dry-run refuses.
    """
    from llmtools.shards.local import Pool

    with Pool(PROGRAM, 1) as pool:
        found = pool.ask(
            {"plan": asdict(pipeline), "workers": workers or num_cpus(), "command": command}
        )
    if "mistake" in found:
        fault = LLMToolsError(found["mistake"])
        fault.exit_code = found["code"]
        raise fault
    return found


def _answer_plan(request: dict[str, Any]) -> dict[str, Any]:
    from llmtools.commands.run_plan import plan_run

    values = request["plan"]
    stages = tuple(Stage(**item) for item in values["stages"])
    pipeline = Pipeline(**values | {"stages": stages})
    try:
        plan = plan_run(pipeline, phases(stages), request["workers"], request["command"])
    except LLMToolsError as fault:
        return {"mistake": str(fault), "code": fault.exit_code}
    return {"plan": plan.to_json(), "text": plan.to_text()}


def main() -> None:
    """The worker process."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            requests.put(line)
        # Nobody waits for the answer any more. What is half-written was never published.
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        answers.write(answer(requests.get()).encode() + b"\n")


if __name__ == "__main__":
    main()
