"""A pipeline over units, phase by phase, with a work directory that remembers what is done.

    plan.json        what the run was started with: stages, settings, inputs
    ledger.jsonl     what is done
    phase-00.json    the units of a phase, written before the first of them starts
    phase-00/        what they wrote; removed once the next phase is done

The units depend on the input and --shard-bytes alone. Whoever runs them, the parts are joined in
the order of the units, so the output is that of the shell's pipe, byte for byte.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from llmtools import __version__, terminal
from llmtools.errors import InterruptedRun, UsageError
from llmtools.formats.claim import lock_directory, remove
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.stream import check_outputs, write_file
from llmtools.shards.join import is_as_written, join, part_of
from llmtools.shards.ledger import LEDGER, PLAN, Ledger, check_plan, read_plan, write_plan
from llmtools.shards.local import Pool
from llmtools.shards.pipeline import KINDS, Phase, Pipeline, phases
from llmtools.shards.split import Share, scan, shares
from llmtools.shards.unit import Outcome, Part, Piece, Unit, add_counts, unit_from


class Source(Protocol):
    """What the first stage reads.

    counts: what finding the inputs adds to the first stage's report.
    """

    counts: dict[str, Any]

    def identify(self, known: dict[str, Any]) -> dict[str, Any]:
        """What tells each input from a changed one; `known` is what it was before, if anything."""

    def shares(self, folder: Path | None, *, is_whole: bool) -> list[Share]:
        """The input of each unit of the first phase; `is_whole`: there is only one.

        folder: where lists of files may be written; None where nothing may be.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A pipeline and how it is run.

    program: the command line of a worker process. settings: what else decides the output, as the
    contents of a tokenizer. resume_command: the line that goes on after an interruption.
    """

    pipeline: Pipeline
    source: Source
    folder: Path
    program: Sequence[str]
    settings: dict[str, str]
    workers: int
    shard_bytes: int
    resume: bool
    resume_command: str


def run(job: Job) -> dict[str, Any]:
    """Run what is not done yet; returns the report.

    Raises UsageError or InputError where the work directory holds another run, ResourceError where
    one is at work in it, UnitFailed for the first unit that fails, InterruptedRun after a signal.
    """
    _check_folder(job.folder)
    job.folder.mkdir(parents=True, exist_ok=True)
    handle = lock_directory(job.folder)
    try:
        return _Run(job).run()
    finally:
        os.close(handle)


def preview(job: Job) -> dict[str, Any]:
    """The phases of a run and the units of the first one; nothing is written."""
    found = phases(job.pipeline.stages)
    job.source.identify({})
    first = job.source.shares(None, is_whole=found[0].is_barrier)
    return {
        "phases": [
            {"stages": phase.title, "units": len(first) if number == 0 else _unknown(found, number)}
            for number, phase in enumerate(found)
        ]
    }


def _unknown(found: Sequence[Phase], number: int) -> int | None:
    return 1 if found[number].is_barrier else None


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; --work-dir is a directory")
    if not folder.is_dir() or (folder / PLAN).exists():
        return
    # Hidden ones may be what a kill left of writing the plan.
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UsageError(f"{folder} holds other files; choose an empty directory for --work-dir")


class _Run:
    """One call of `run`, with the lock held."""

    def __init__(self, job: Job) -> None:
        self.job, self.folder, self.pipeline = job, job.folder, job.pipeline
        self.phases = phases(job.pipeline.stages)
        self.asked = [place for place in job.pipeline.rejects if place is not None]
        self.units_run = 0

    def run(self) -> dict[str, Any]:
        start = time.monotonic()
        if not self.job.resume:
            self._clear()
        self._plan()
        ledger = Ledger(self.folder)
        try:
            if ledger.finished is not None and is_as_written(ledger.finished["outputs"]):
                terminal.note(
                    f"run: {self.pipeline.output} is done already; --no-resume -f makes it again"
                )
                found: dict[str, Any] = ledger.finished["report"] | {"units_run": 0}
                return found
            if ledger.finished is not None:
                # The output was taken away, and the parts went when it was done.
                ledger.close()
                self._clear(keep_plan=True)
                ledger = Ledger(self.folder)
            force = self.pipeline.force or ledger.is_publishing
            check_outputs([self.pipeline.output, *self.asked], force=force)
            report = self._work(ledger) | {"units_run": self.units_run}
            report["wall_s"] = round(time.monotonic() - start, 3)
            outputs = [self.pipeline.output, *self.asked]
            written = [asdict(part_of(Path(path))) for path in outputs if os.path.exists(path)]
            ledger.close_run(written, report)
            for number in range(len(self.phases)):
                remove(self.folder / _name(number))
            return report
        except (KeyboardInterrupt, SystemExit) as stop:
            raise InterruptedRun(
                f"stopped with {len(ledger.done):,} units done, which are kept in {self.folder};"
                f" continue with:\n  {self.job.resume_command}"
            ) from stop
        finally:
            ledger.close()

    def _clear(self, *, keep_plan: bool = False) -> None:
        # The plan goes last: a folder with other files and no plan would be taken for somebody's.
        names = [LEDGER] if keep_plan else [LEDGER, PLAN]
        for path in [*self.folder.glob("phase-*"), *(self.folder / name for name in names)]:
            remove(path)

    def _plan(self) -> None:
        """Compare this run with what the folder holds, or start it."""
        old = read_plan(self.folder)
        settings = {"version": __version__, "shard_bytes": self.job.shard_bytes}
        settings |= {"output": self.pipeline.output, **self.job.settings}
        stages = [
            {"title": stage.title, "values": stage.values | {"rejects": rejects}}
            for stage, rejects in zip(self.pipeline.stages, self.pipeline.rejects, strict=True)
        ]
        inputs = self.job.source.identify({} if old is None else old["inputs"])
        new = {"settings": settings, "stages": stages, "inputs": inputs}
        if old is not None:
            check_plan(self.folder, old, new)
        if old != new:
            write_plan(self.folder, new)

    def _work(self, ledger: Ledger) -> dict[str, Any]:
        """All phases, then the joining; returns the report."""
        done: list[Outcome] = []
        lists: list[list[Unit]] = []
        with Pool(self.job.program, self.job.workers) as pool:
            for number, phase in enumerate(self.phases):
                units = self._units(number, phase, lists, done)
                lists.append(units)
                todo = self._todo(ledger, units, lists, number)
                if todo:
                    if number == 0:
                        self._rehearse(pool)
                    self._run_units(pool, ledger, phase, units, todo)
                done = [ledger.done[unit.key] for unit in units]
                _check_left(phase, done)
                if number:
                    remove_parts(self.folder / _name(number - 1), keep_rejects=True)
        self._publish(ledger, lists, done)
        counts: list[dict[str, Any]] = [{} for _ in self.pipeline.stages]
        counts[0] = self.job.source.counts
        for phase, units in zip(self.phases, lists, strict=True):
            for unit in units:
                for at, found in enumerate(ledger.done[unit.key].counts):
                    counts[phase.first + at] = add_counts(counts[phase.first + at], found)
        return {
            "stages": [
                {"stage": stage.title, **found}
                for stage, found in zip(self.pipeline.stages, counts, strict=True)
            ],
            "units": sum(map(len, lists)),
        }

    def _run_units(
        self, pool: Pool, ledger: Ledger, phase: Phase, units: list[Unit], todo: list[Unit]
    ) -> None:
        (self.folder / _name(units[0].phase)).mkdir(exist_ok=True)
        if units[0].outputs[-1] == self.pipeline.output:
            ledger.publish()
        terminal.detail(f"run: {phase.title}: {len(todo):,} of {len(units):,} units to do")
        with terminal.progress(phase.title, len(todo), "unit") as bar:

            def finish(unit: Unit, outcome: Outcome) -> None:
                if outcome.message:
                    terminal.note(outcome.message)
                ledger.finish(unit, outcome)
                self.units_run += 1
                bar.update()

            pool.run(todo, ledger.start, finish)

    def _todo(
        self, ledger: Ledger, units: list[Unit], lists: list[list[Unit]], number: int
    ) -> list[Unit]:
        """The units to run: those not done, and those whose parts are needed and not there."""
        todo = [unit for unit in units if unit.key not in ledger.done]
        later = self.folder / f"{_name(number + 1)}.json"
        if number + 1 < len(self.phases) and later.exists():
            following = [unit_from(item) for item in json.loads(later.read_bytes())]
            if all(unit.key in ledger.done for unit in following):
                return todo
        for unit in units:
            outcome = ledger.done.get(unit.key)
            wanted = None if outcome is None else outcome.output
            if wanted is not None and not is_as_written([asdict(wanted)]):
                todo.append(unit)
        return sorted(todo, key=lambda unit: unit.index)

    def _rehearse(self, pool: Pool) -> None:
        """Every stage on an empty input, so that a mistake in the last one is known at once."""
        stages = [asdict(stage) for stage in self.pipeline.stages]
        answer = pool.ask({"rehearse": stages, "folder": str(self.folder)})
        if answer["mistakes"]:
            raise UsageError("\n".join(answer["mistakes"]))

    def _units(
        self, number: int, phase: Phase, lists: list[list[Unit]], before: list[Outcome]
    ) -> list[Unit]:
        """The units of a phase: as they were planned before, else planned now and kept."""
        path = self.folder / f"{_name(number)}.json"
        if path.exists():
            return [unit_from(item) for item in json.loads(path.read_bytes())]
        (self.folder / _name(number)).mkdir(exist_ok=True)
        if number == 0:
            found = self.job.source.shares(self.folder / _name(0), is_whole=phase.is_barrier)
            units = [self._first(phase, index, share) for index, share in enumerate(found)]
        else:
            parts = [outcome.output for outcome in before if outcome.output is not None]
            units = list(self._following(number, phase, parts))
        data = json.dumps([asdict(unit) for unit in units], ensure_ascii=False)
        write_file(path, data.encode() + b"\n")
        return units

    def _first(self, phase: Phase, index: int, share: Share) -> Unit:
        return Unit(
            phase=0,
            index=index,
            files=share.files,
            files_from=share.files_from,
            pieces=() if share.piece is None else (share.piece,),
            parents=() if share.parent is None else (share.parent,),
            source="<stdin>" if share.piece is None else share.piece.path,
            first_line=share.first_line,
            **self._places(0, phase, index),
        )

    def _following(self, number: int, phase: Phase, parts: list[Part]) -> list[Unit]:
        """Units over the parts of the phase before."""
        whole = [Piece(path=part.path, start=0, end=part.num_bytes) for part in parts]
        if phase.is_barrier:
            cuts = [(tuple(whole), tuple(parts), 1)]
        elif self.phases[number - 1].is_barrier:
            found = shares([scan(parts[0].path, self.job.shard_bytes)], self.job.shard_bytes)
            cuts = [((share.piece or whole[0],), (parts[0],), share.first_line) for share in found]
        else:
            cuts, line = [], 1
            for piece, part in zip(whole, parts, strict=True):
                cuts.append(((piece,), (part,), line))
                line += part.num_lines
        return [
            Unit(
                phase=number,
                index=index,
                pieces=pieces,
                parents=parents,
                first_line=line,
                **self._places(number, phase, index),
            )
            for index, (pieces, parents, line) in enumerate(cuts)
        ]

    def _places(self, number: int, phase: Phase, index: int) -> dict[str, Any]:
        """Where the stages of a unit write; the last barrier writes the output itself."""
        base = self.folder / _name(number)
        outputs, rejects = [], []
        for at, stage in enumerate(phase.stages):
            is_frames = KINDS[stage.name].writes == "token frames"
            step = "" if at == len(phase.stages) - 1 else f".{at}"
            outputs.append(f"{base}/{index:05d}{step}{'.safetensors' if is_frames else '.jsonl'}")
            asked = self.pipeline.rejects[phase.first + at] is not None
            rejects.append(f"{base}/{index:05d}.rejects-{at}.jsonl" if asked else None)
        if phase.is_barrier and number == len(self.phases) - 1:
            outputs[-1] = self.pipeline.output
        return {"stages": phase.stages, "outputs": tuple(outputs), "rejects": tuple(rejects)}

    def _publish(self, ledger: Ledger, lists: list[list[Unit]], done: list[Outcome]) -> None:
        """Join the parts of the last phase, and of each stage's rejects, where they are to be."""
        ledger.publish()
        titles = {"pipeline": [stage.title for stage in self.pipeline.stages]}
        if not self.phases[-1].is_barrier:
            parts = [outcome.output for outcome in done if outcome.output is not None]
            is_frames = KINDS[self.pipeline.stages[-1].name].writes == "token frames"
            join(parts, self.pipeline.output, titles, is_frames=is_frames)
        for phase, units in zip(self.phases, lists, strict=True):
            for at in range(len(phase.stages)):
                place = self.pipeline.rejects[phase.first + at]
                if place is not None:
                    found = [ledger.done[unit.key].rejects for unit in units]
                    dropped = [item[at] for item in found if len(item) > at]
                    join([part for part in dropped if part is not None], place, titles)


def remove_parts(folder: Path, *, keep_rejects: bool) -> None:
    """Remove what the units of a phase wrote, once the next phase is done."""
    for path in folder.glob("*"):
        if not (keep_rejects and ".rejects-" in path.name):
            remove(path)


def _check_left(phase: Phase, done: list[Outcome]) -> None:
    """Raises NothingLeft where no unit of a phase has an output."""
    if any(outcome.output is not None for outcome in done):
        return
    said = next((outcome.empty for outcome in done if outcome.empty), "no input")
    several = f" in any of {len(done):,} units; the first says" if len(done) > 1 else ""
    raise NothingLeft(f"{phase.title}: nothing is left{several}: {said}")


def _name(number: int) -> str:
    return f"phase-{number:02d}"
