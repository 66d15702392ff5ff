"""`llm dedup --phase`: one of four phases, for a shard of the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmtools.commands.common import report, show_plan
from llmtools.errors import UsageError
from llmtools.formats.input_names import STDIO
from llmtools.shards.place import Place, parse_shard

if TYPE_CHECKING:
    from llmtools.data.dedup import DedupSettings
    from llmtools.data.dedup_phases import Work


def run_phase(names: list[str], settings: DedupSettings, given: Mapping[str, Any]) -> None:
    """Run a phase or, with --dry-run, plan it; `given` are the values of the command."""
    if given["explain"] is not None or given["index"] or given["create_index"] is not None:
        raise UsageError("--phase goes without --explain and indexes")
    phase = given["phase"]
    work = _open_work(names, settings, given)
    places = {name: given[name] for name in ("rejects", "on_error", "force")}
    if given["dry_run"]:
        from llmtools.plan.dedup_phases import plan_phase

        show_plan(plan_phase(phase, work, given["output"], **places))
        return
    from llmtools.data import dedup_phases

    if phase == "sign":
        counts = dedup_phases.sign(work, given["on_error"])
    elif phase == "match":
        counts = dedup_phases.match(work)
    elif phase == "cluster":
        counts = dedup_phases.link(work)
    else:
        counts = dedup_phases.apply(work, given["output"], **places)
    said = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in counts.items())
    where = "0/1" if phase == "cluster" else f"{work.place.index}/{work.place.count}"
    report(counts, f"dedup: {phase} {where}: {said}")


def _open_work(names: list[str], settings: DedupSettings, given: Mapping[str, Any]) -> Work:
    from llmtools.data.dedup_phases import Work

    phase, folder, shard = given["phase"], given["work_dir"], given["shard"]
    if folder is None:
        raise UsageError(f"--phase {phase} needs --work-dir, the directory that the phases share")
    if phase != "apply" and (given["output"] != STDIO or given["rejects"] is not None):
        raise UsageError(f"--phase {phase} writes to --work-dir alone; -o is for --phase apply")
    if phase == "cluster" and shard is not None:
        raise UsageError("--phase cluster is one for all shards; leave --shard out")
    place = Place() if shard is None else parse_shard(shard)
    return Work(
        folder,
        names,
        settings,
        None if phase == "cluster" else place,
        is_planned=given["dry_run"],
    )
