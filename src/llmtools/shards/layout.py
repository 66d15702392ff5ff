"""The units of each phase: what they read, and where in the work directory they write."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from llmtools.formats.claim import remove
from llmtools.formats.output import write_file
from llmtools.shards.pipeline import APPLY, LINK, SIGN, Phase, Pipeline, phases, writes_frames
from llmtools.shards.split import Share, scan, shares
from llmtools.shards.unit import Outcome, Part, Piece, Unit, unit_from


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


class Layout:
    """The phases of a pipeline, and the units of each once those before are done."""

    def __init__(self, pipeline: Pipeline, source: Source, folder: Path, shard_bytes: int) -> None:
        self.phases = phases(pipeline.stages)
        self._pipeline, self._source = pipeline, source
        self._folder, self._shard_bytes = folder, shard_bytes

    def place_of(self, number: int) -> Path:
        """The directory that the units of a phase write into."""
        return self._folder / f"phase-{number:02d}"

    def list_of(self, number: int) -> Path:
        """The file that holds the units of a phase, once they are known."""
        return self._folder / f"phase-{number:02d}.json"

    def read(self, number: int) -> list[Unit]:
        """The units of a phase as they were written."""
        return [unit_from(item) for item in json.loads(self.list_of(number).read_bytes())]

    def last_reader(self, number: int) -> int:
        """The last phase that reads what a phase wrote."""
        after = self.phases[number + 1] if number + 1 < len(self.phases) else None
        is_divided = after is not None and after.stages[0].part == SIGN
        return number + (3 if is_divided else 1)

    def write(self, number: int, done: Callable[[int], Sequence[Outcome]]) -> None:
        """Find the units of a phase and keep them; `done`: what a phase before gave."""
        phase = self.phases[number]
        place = self.place_of(number)
        place.mkdir(exist_ok=True)
        part = phase.stages[0].part
        if part == LINK:
            signed = [outcome.output.path for outcome in done(number - 1) if outcome.output]
            units = [self._unit(number, phase, 0, beside=tuple(signed))]
        elif part == APPLY:
            units = self._again(number, phase, done(number - 1)[0])
        elif number == 0:
            found = self._source.shares(place, is_whole=phase.is_barrier)
            units = [self._first(phase, index, share) for index, share in enumerate(found)]
        else:
            before = done(number - 1)
            parts = [outcome.output for outcome in before if outcome.output is not None]
            units = self._following(number, phase, parts)
        data = json.dumps([asdict(unit) for unit in units], ensure_ascii=False)
        write_file(self.list_of(number), data.encode() + b"\n")

    def remove_parts(self, number: int) -> None:
        """Remove what the units of a phase wrote, but for rejects, once the next phase is done."""
        for path in self.place_of(number).glob("*"):
            if ".rejects-" not in path.name:
                remove(path)

    def _unit(self, number: int, phase: Phase, index: int, **facts: Any) -> Unit:
        return Unit(phase=number, index=index, **self._places(number, phase, index), **facts)

    def _again(self, number: int, phase: Phase, linked: Outcome) -> list[Unit]:
        """The units that signed, each with its file of what was decided."""
        assert linked.output is not None
        return [
            replace(
                unit,
                phase=number,
                beside=(f"{linked.output.path}/{unit.index:05d}.safetensors",),
                **self._places(number, phase, unit.index),
            )
            for unit in self.read(number - 2)
        ]

    def _first(self, phase: Phase, index: int, share: Share) -> Unit:
        return self._unit(
            0,
            phase,
            index,
            files=share.files,
            files_from=share.files_from,
            pieces=() if share.piece is None else (share.piece,),
            parents=() if share.parent is None else (share.parent,),
            source="<stdin>" if share.piece is None else share.piece.path,
            first_line=share.first_line,
        )

    def _following(self, number: int, phase: Phase, parts: list[Part]) -> list[Unit]:
        """Units over the parts of the phase before."""
        whole = [Piece(path=part.path, start=0, end=part.num_bytes) for part in parts]
        if phase.is_barrier:
            cuts = [(tuple(whole), tuple(parts), 1)]
        elif self.phases[number - 1].is_barrier:
            found = shares([scan(parts[0].path, self._shard_bytes)], self._shard_bytes)
            cuts = [((share.piece or whole[0],), (parts[0],), share.first_line) for share in found]
        else:
            cuts, line = [], 1
            for piece, part in zip(whole, parts, strict=True):
                cuts.append(((piece,), (part,), line))
                line += part.num_lines
        return [
            self._unit(number, phase, index, pieces=pieces, parents=parents, first_line=line)
            for index, (pieces, parents, line) in enumerate(cuts)
        ]

    def _places(self, number: int, phase: Phase, index: int) -> dict[str, Any]:
        """Where the stages of a unit write; the last barrier writes the output itself."""
        base = self.place_of(number)
        outputs, rejects = [], []
        for at, stage in enumerate(phase.stages):
            is_frames = writes_frames(stage)
            step = "" if at == len(phase.stages) - 1 else f".{at}"
            is_folder = stage.part in (SIGN, LINK)
            suffix = ".safetensors" if is_frames else ".parts" if is_folder else ".jsonl"
            outputs.append(f"{base}/{index:05d}{step}{suffix}")
            asked = self._pipeline.rejects[phase.first + at] is not None
            rejects.append(f"{base}/{index:05d}.rejects-{at}.jsonl" if asked else None)
        if phase.is_barrier and number == len(self.phases) - 1:
            outputs[-1] = self._pipeline.output
        return {"stages": phase.stages, "outputs": tuple(outputs), "rejects": tuple(rejects)}
