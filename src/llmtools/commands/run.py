"""`llm run`: a pipe of data commands in units, in parallel, that goes on where it was stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from llmtools import terminal
from llmtools.commands.common import (
    SHARD_BYTES,
    ExecutorFlag,
    RayAddress,
    Shard,
    ShardBytes,
    byte_size,
    command,
    make_app,
    report,
    resume_command,
)

app = make_app()


@command(
    app,
    "run",
    examples=[
        "llm run --work-dir w --workers 8 'extract site/ | filter | dedup -o clean.jsonl.zst'",
        "llm run --work-dir w 'dedup crawl/ | tokenize -t tok.json | pack --seq-len 2048 -o train'",
    ],
)
def run(
    *,
    pipeline: Annotated[
        list[str],
        typer.Argument(metavar="PIPELINE", help="'COMMAND ... | COMMAND ... -o OUTPUT', quoted."),
    ],
    work_dir: Annotated[
        Path, typer.Option("--work-dir", help="Keeps what is done; the same line goes on there.")
    ],
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Worker processes.  [default: all cores]"),
    ] = None,
    executor: ExecutorFlag = "local",
    shard: Shard = None,
    ray_address: RayAddress = None,
    shard_bytes: ShardBytes = SHARD_BYTES,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with what is in the work directory.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("-n", "--dry-run", help="Check everything, print the units, do nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("-f", "--force", help="Replace an existing output.")
    ] = False,
) -> None:
    """Run a pipe of data commands in units, in parallel; the output is that of the shell's pipe.

    PIPELINE is commands joined by |, the first naming its files, the last its output. Killed
    anywhere, the same line goes on with what is missing.
    """
    from dataclasses import replace

    from llmtools.commands.pipelines import parse_pipeline, settings_of
    from llmtools.commands.sharding import count_line, estimate, find_pool
    from llmtools.commands.sources import source_of
    from llmtools.shards import runner
    from llmtools.shards.pipeline import split_stages
    from llmtools.shards.place import find_place

    parsed = parse_pipeline(split_stages(pipeline))
    parsed = replace(parsed, force=parsed.force or force)
    size = byte_size("--shard-bytes", shard_bytes)
    job = runner.Job(
        pipeline=parsed,
        source=source_of(parsed, size),
        folder=work_dir,
        open_pool=find_pool(executor, workers, ray_address, work_dir),
        settings=settings_of(parsed),
        shard_bytes=size,
        resume=resume,
        resume_command=resume_command("llm"),
        place=find_place(executor, shard, os.environ),
    )
    if dry_run:
        _show_plan(runner.preview(job), estimate(parsed, workers))
        return
    totals = runner.run(job)
    stages = "\n".join(f"  {one['stage']}: {count_line(one)}" for one in totals["stages"])
    report(
        {**totals, "output": parsed.output},
        f"run: {totals['units_run']:,} of {totals['units']:,} units run, {parsed.output} is there"
        f"\n{stages}",
    )


def _show_plan(plan: dict[str, Any], estimate: dict[str, Any]) -> None:
    rows = [
        (number, phase["stages"], "as they come" if phase["units"] is None else phase["units"])
        for number, phase in enumerate(plan["phases"], 1)
    ]
    if terminal.display().json:
        terminal.emit_json(estimate["plan"] | plan)
    else:
        table = terminal.format_table(("phase", "stages", "units"), rows)
        terminal.emit_text(f"{estimate['text']}{table}\n")
