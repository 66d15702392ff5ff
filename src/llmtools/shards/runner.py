"""A pipeline over units, phase by phase, with a work directory that remembers what is done.

    plan.json        what the run was started with: stages, settings, inputs
    ledger*.jsonl    what is done, a file for each process that takes part
    phase-00.json    the units of a phase, written before the first of them starts
    phase-00/        what they wrote; removed once the next phase is done
    .claims/         who is at work on what; removed at the end

The units depend on the input and --shard-bytes alone. Whoever runs them, the parts are joined in
the order of the units, so the output is that of the shell's pipe, byte for byte. Any number of
processes may work in one directory (--shard, --executor slurm); each thing that only one may do
(the plan, the list of a phase's units, the joining) is claimed like a unit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmtools import __version__, terminal
from llmtools.errors import InterruptedRun, ResourceError, UsageError
from llmtools.formats.claim import lock_directory, remove
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.output import check_outputs
from llmtools.shards.claims import CLAIMS, Claims
from llmtools.shards.join import is_as_written, join, part_of
from llmtools.shards.layout import Layout, Source
from llmtools.shards.ledger import LEDGER, LEDGERS, PLAN, Ledger, check_plan, read_plan, write_plan
from llmtools.shards.pipeline import Phase, Pipeline, writes_frames
from llmtools.shards.place import Place
from llmtools.shards.queue import Queue
from llmtools.shards.unit import Outcome, Part, Stage, Unit, add_counts

if TYPE_CHECKING:
    from llmtools.formats.token_forms import TokenForm

# Between two looks at what other processes have done.
PAUSES_S = (0.05, 1.0)
PATIENCE_S = 100.0
# The claim of whoever writes the list of a phase's units.
LIST = "list-{}"


class Pool(Protocol):
    """What runs units: processes of this machine, or tasks of a cluster."""

    def run(
        self,
        take: Callable[[], Unit | None],
        on_start: Callable[[Unit, int], None],
        on_done: Callable[[Unit, Outcome], None],
    ) -> None:
        """Run what `take` gives, until it gives nothing while nothing is in hand."""

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request to one worker, and its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A pipeline and how it is run.

    open_pool: makes what runs the units. settings: what else decides the output, as the contents of
    a tokenizer. resume_command: the line that goes on after an interruption.
    """

    pipeline: Pipeline
    source: Source
    folder: Path
    open_pool: Callable[[], AbstractContextManager[Pool]]
    settings: dict[str, str]
    shard_bytes: int
    resume: bool
    resume_command: str
    place: Place


def run(job: Job) -> dict[str, Any]:
    """Run what is not done yet; returns the report.

    Raises UsageError or InputError where the work directory holds another run, ResourceError where
    one is at work in it that does not share it, UnitFailed for the first unit that fails,
    InterruptedRun after a signal.
    """
    if job.place.is_shared and not job.resume:
        raise UsageError(
            f"--no-resume: several processes share {job.folder}; remove it before they start"
        )
    _check_folder(job.folder)
    job.folder.mkdir(parents=True, exist_ok=True)
    handle = lock_directory(job.folder, is_shared=job.place.is_shared)
    try:
        return _Run(job).run()
    finally:
        os.close(handle)


def preview(job: Job) -> dict[str, Any]:
    """The phases of a run and the units of the first one; nothing is written."""
    layout = Layout(job.pipeline, job.source, job.folder, job.shard_bytes)
    found = layout.phases
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
        # Of several processes another one may have been here first.
        if not (folder / PLAN).exists():
            raise UsageError(
                f"{folder} holds other files; choose an empty directory for --work-dir"
            )


class _Run:
    """One call of `run`, with the lock held."""

    def __init__(self, job: Job) -> None:
        self.job, self.folder, self.pipeline = job, job.folder, job.pipeline
        self.layout = Layout(job.pipeline, job.source, job.folder, job.shard_bytes)
        self.asked = [place for place in job.pipeline.rejects if place is not None]
        self.units_run = 0
        self._over_s = 0.0

    def run(self) -> dict[str, Any]:
        start = time.monotonic()
        if not self.job.resume:
            self._clear()
        with Claims(self.folder, self.job.place) as self.claims:
            self._plan()
            self.ledger = self._open_ledger()
            try:
                report = self._finished() or self._work(start)
                return report | {"units_run": self.units_run}
            except (KeyboardInterrupt, SystemExit) as stop:
                raise InterruptedRun(
                    f"stopped with {len(self.ledger.done):,} units done, which are kept in"
                    f" {self.folder}; continue with:\n  {self.job.resume_command}"
                ) from stop
            finally:
                self.ledger.close()

    def _open_ledger(self) -> Ledger:
        name = LEDGER
        if self.job.place.is_shared:
            name = f"ledger-{self.claims.owner.removeprefix('owner-')}.jsonl"
        return Ledger(self.folder, name)

    def _is_untouched(self) -> bool:
        """Whether no unit was ever done."""
        ledger = self._open_ledger()
        ledger.close()
        return not (ledger.done or ledger.finished or ledger.is_publishing)

    def _finished(self) -> dict[str, Any] | None:
        """The report of a run that is done already, None where there is work."""
        finished = self.ledger.finished
        if finished is None:
            return None
        # Of many processes that come late each would read all of the output.
        is_shared = self.job.place.is_shared
        if is_as_written(finished["outputs"], is_quick=is_shared):
            terminal.note(
                f"run: {self.pipeline.output} is done already; --no-resume -f makes it again"
            )
            # The one that finished may have been killed before it had.
            self._tidy()
            found: dict[str, Any] = finished["report"]
            return found
        if is_shared:
            raise UsageError(
                f"{self.folder} holds a run that is done, and {self.pipeline.output} is not what it"
                " wrote; remove the directory to start over"
            )
        # The output was taken away, and the parts went when it was done.
        self.ledger.close()
        self._clear(keep_plan=True)
        self.ledger = self._open_ledger()
        return None

    def _clear(self, *, keep_plan: bool = False) -> None:
        # The plan goes last: a folder with other files and no plan would be taken for somebody's.
        names = [] if keep_plan else [CLAIMS, PLAN]
        found = [*self.folder.glob("phase-*"), *self.folder.glob(LEDGERS)]
        for path in [*found, *(self.folder / name for name in names)]:
            remove(path)

    def _plan(self) -> None:
        """Compare this run with what the folder holds, or start it."""
        settings = {"version": __version__, "shard_bytes": self.job.shard_bytes}
        settings |= {"output": self.pipeline.output, **self.job.settings}
        stages = [
            {"title": stage.title, "values": stage.values | {"rejects": rejects}}
            for stage, rejects in zip(self.pipeline.stages, self.pipeline.rejects, strict=True)
        ]

        def new_plan(known: dict[str, Any]) -> dict[str, Any]:
            inputs = self.job.source.identify(known)
            return {"settings": settings, "stages": stages, "inputs": inputs}

        def make() -> None:
            # Who has read all the input writes the list of its units too, as it knows the cuts.
            self.claims.take(LIST.format(0))
            write_plan(self.folder, new_plan({}))

        if self._once("plan", lambda: read_plan(self.folder) is not None, make):
            return
        old = read_plan(self.folder)
        assert old is not None
        new = new_plan(old["inputs"])
        if old != new and not self.job.place.is_shared and self._is_untouched():
            # As after a mistake in the line that was started; there is nothing to mix up.
            self._clear(keep_plan=True)
            write_plan(self.folder, new)
            return
        check_plan(self.folder, old, new)
        if old != new and not self.job.place.is_shared:
            write_plan(self.folder, new)

    def _once(self, key: str, is_there: Callable[[], bool], make: Callable[[], None]) -> bool:
        """Make what only one process may make, or wait until it is there; whether it was made."""
        pause = PAUSES_S[0]
        while not is_there():
            if self.claims.take(key):
                try:
                    if not is_there():
                        make()
                        return True
                finally:
                    self.claims.release(key)
            else:
                pause = self._wait(pause)
        return False

    def _wait(self, pause: float) -> float:
        """Sleep; returns for how long the next time."""
        time.sleep(pause)
        if self.claims.is_over:
            # All may be done, which a network file system may show late.
            self._over_s += pause
            if self._over_s > PATIENCE_S:
                raise ResourceError(f"{self.folder / CLAIMS} was removed while this run needs it")
        return min(2 * pause, PAUSES_S[1])

    def _work(self, start: float) -> dict[str, Any]:
        """All phases, then the joining; returns the report."""
        self._check_outputs()
        lists: list[list[Unit]] = []

        def done(number: int) -> list[Outcome]:
            return [self.ledger.done[unit.key] for unit in lists[number]]

        with self.job.open_pool() as pool:
            for number, phase in enumerate(self.layout.phases):
                self._once(
                    LIST.format(number),
                    self.layout.list_of(number).exists,
                    lambda n=number: self.layout.write(n, done),  # type: ignore[misc]
                )
                units = self.layout.read(number)
                lists.append(units)
                todo = self._todo(units, number)
                if todo:
                    # Where any unit was begun it has been done.
                    if number == 0 and not self.ledger.attempts:
                        self._rehearse(pool)
                    self._run_units(pool, phase, units, todo)
                if self._is_finished():
                    break
                _check_left(phase, done(number))
                for read in range(number):
                    if self.layout.last_reader(read) == number:
                        self.layout.remove_parts(read)
        self._once("publish", self._is_finished, lambda: self._publish(lists, start))
        assert self.ledger.finished is not None
        found: dict[str, Any] = self.ledger.finished["report"]
        return found

    def _is_finished(self) -> bool:
        if self.ledger.finished is None and self.job.place.is_shared:
            self.ledger.refresh()
        return self.ledger.finished is not None

    def _check_outputs(self) -> None:
        outputs = [self.pipeline.output, *self.asked]
        try:
            check_outputs(outputs, force=self.pipeline.force or self.ledger.is_publishing)
        except UsageError:
            # Another process may have begun to publish since the ledger was read.
            self.ledger.refresh()
            check_outputs(outputs, force=self.ledger.is_publishing)

    def _run_units(self, pool: Pool, phase: Phase, units: list[Unit], todo: list[Unit]) -> None:
        self.layout.place_of(units[0].phase).mkdir(exist_ok=True)
        if units[0].outputs[-1] == self.pipeline.output:
            self.ledger.publish()
        terminal.detail(f"run: {phase.title}: {len(todo):,} of {len(units):,} units to do")
        queue = Queue(todo, self.job.place, self.claims, self.ledger, str(self.folder))
        with terminal.progress(phase.title, len(todo), "unit") as bar:

            def finish(unit: Unit, outcome: Outcome) -> None:
                if outcome.message:
                    terminal.note(outcome.message)
                self.ledger.finish(unit, outcome)
                queue.done(unit)
                self.units_run += 1
                bar.update()

            pause = PAUSES_S[0]
            while True:
                pool.run(queue.take, self.ledger.start, finish)
                if all(unit.key in self.ledger.done for unit in todo) or self._is_finished():
                    return
                self._say_waiting(queue)
                pause = self._wait(pause)

    def _say_waiting(self, queue: Queue) -> None:
        owners = sorted(set(queue.left().values()))
        if owners:
            shown = ", ".join(map(self.claims.describe, owners[:3]))
            more = f" and {len(owners) - 3:,} more" if len(owners) > 3 else ""
            terminal.detail(f"run: waiting for units of {shown}{more}")

    def _todo(self, units: list[Unit], number: int) -> list[Unit]:
        """The units to run: those not done, and those whose parts are needed and not there."""
        if self._is_over(number):
            return [unit for unit in units if unit.key not in self.ledger.done]
        place = self.job.place
        broken = []
        for unit in units:
            outcome = self.ledger.done.get(unit.key)
            part = None if outcome is None else outcome.output
            # Of several processes each reads its share of what is there.
            is_quick = place.is_shared and unit.index % place.count != place.index
            if part is not None and not is_as_written([asdict(part)], is_quick=is_quick):
                broken.append(unit.key)
        if broken:
            # Parts go once the next phase is done, which may have happened by now.
            self.ledger.refresh()
            if self._is_finished() or self._is_over(number):
                broken = []
        for key in broken:
            if key in self.ledger.done:
                self.ledger.lose(key)
        return [unit for unit in units if unit.key not in self.ledger.done]

    def _is_over(self, number: int) -> bool:
        """Whether nobody needs the parts of a phase any more: those who read them are done."""
        reader = self.layout.last_reader(number)
        if reader >= len(self.layout.phases) or not self.layout.list_of(reader).exists():
            return False
        return all(unit.key in self.ledger.done for unit in self.layout.read(reader))

    def _rehearse(self, pool: Pool) -> None:
        """Every stage on an empty input, so that a mistake in the last one is known at once."""
        stages = [asdict(stage) for stage in self.pipeline.stages]
        answer = pool.ask({"rehearse": stages, "folder": str(self.folder)})
        if answer["mistakes"] and not self._is_finished():
            raise UsageError("\n".join(answer["mistakes"]))

    def _publish(self, lists: list[list[Unit]], start: float) -> None:
        """Put the output and the rejects where they are to be, and say that the run is done."""
        self.ledger.publish()
        self._join(lists)
        outputs = [self.pipeline.output, *self.asked]
        written = [asdict(part_of(Path(path))) for path in outputs if os.path.exists(path)]
        report = self._report(lists) | {"wall_s": round(time.monotonic() - start, 3)}
        self.ledger.close_run(written, report)
        self._tidy()

    def _tidy(self) -> None:
        """Remove what nobody needs once all is done."""
        for path in self.folder.glob("phase-*"):
            if path.is_dir():
                remove(path)
        # Whoever still holds a claim sees by this that all is done.
        remove(self.folder / CLAIMS)

    def _join(self, lists: list[list[Unit]]) -> None:
        """Join the parts of the last phase, and of each stage's rejects."""
        done = self.ledger.done
        titles = {"pipeline": [stage.title for stage in self.pipeline.stages]}
        if not self.layout.phases[-1].is_barrier:
            found = [done[unit.key].output for unit in lists[-1]]
            parts = [part for part in found if part is not None]
            join(parts, self.pipeline.output, titles, form=_form_of(self.pipeline.stages[-1]))
        rejected: dict[str, list[Part]] = {}
        for phase, units in zip(self.layout.phases, lists, strict=True):
            for at in range(len(phase.stages)):
                place = self.pipeline.rejects[phase.first + at]
                if place is not None:
                    dropped = [done[unit.key].rejects for unit in units]
                    written = (item[at] for item in dropped if len(item) > at)
                    # A stage in several phases has one file.
                    own = rejected.setdefault(place, [])
                    own += [part for part in written if part is not None]
        for place, parts in rejected.items():
            join(parts, place, titles)

    def _report(self, lists: list[list[Unit]]) -> dict[str, Any]:
        counts: list[dict[str, Any]] = [{} for _ in self.pipeline.stages]
        counts[0] = self.job.source.counts
        for phase, units in zip(self.layout.phases, lists, strict=True):
            for unit in units:
                for at, found in enumerate(self.ledger.done[unit.key].counts):
                    counts[phase.first + at] = add_counts(counts[phase.first + at], found)
        stages = zip(self.pipeline.stages, counts, strict=True)
        return {
            "stages": [{"stage": stage.title, **found} for stage, found in stages],
            "units": sum(map(len, lists)),
        }


def _form_of(last: Stage) -> TokenForm | None:
    """What the parts of the last stage become, where they are token frames."""
    if not writes_frames(last):
        return None
    from llmtools.formats.token_forms import TokenForm

    return TokenForm(name=last.values["format"], dtype=last.values["dtype"])


def _check_left(phase: Phase, done: list[Outcome]) -> None:
    """Raises NothingLeft where no unit of a phase has an output."""
    if any(outcome.output is not None for outcome in done):
        return
    said = next((outcome.empty for outcome in done if outcome.empty), "no input")
    several = f" in any of {len(done):,} units; the first says" if len(done) > 1 else ""
    raise NothingLeft(f"{phase.title}: nothing is left{several}: {said}")
