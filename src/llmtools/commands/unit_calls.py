"""The stages of a unit, run in this process one after another."""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import xxhash

from llmtools import cli, terminal
from llmtools.commands.common import FUNCTIONS
from llmtools.formats.claim import remove
from llmtools.formats.input_names import STDIO
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.manifest import Recorder, manifest_path
from llmtools.formats.stream import standing_in
from llmtools.shards.join import part_of
from llmtools.shards.pipeline import writes_frames
from llmtools.shards.unit import Outcome, Piece, Pieces, Stage, Unit


def run_unit(unit: Unit) -> Outcome:
    """Run the stages of a unit in this process, one after another."""
    start = time.monotonic()
    said: list[str] = []
    counts: list[dict[str, Any]] = []
    code, empty = 0, ""
    for number, stage in enumerate(unit.stages):
        values = stage.values | {"output": unit.outputs[number], "force": unit.force}
        if "rejects" in _parameters(stage):
            values["rejects"] = unit.rejects[number]
        if stage.part:
            values["beside"] = list(unit.beside)
        if writes_frames(stage):
            # Other forms are made of the frames of all units.
            values |= {"format": "frames", "dtype": "auto"}
        with ExitStack() as stack:
            if number:
                source = io.BufferedReader(Pieces([_whole(unit.outputs[number - 1])]))
                stack.enter_context(standing_in(source))
                values["inputs"] = [STDIO]
            else:
                values |= _open_first(unit, stack)
            code, message, empty, report = call_stage(stage, values)
        said += [message] if message else []
        counts += [report] if report is not None else []
        if code or empty:
            break
    for path in unit.outputs[:-1]:
        remove(Path(path))
        remove(manifest_path(Path(path)))
    # The collector is off while records stream; what modules keep for good is not looked at again.
    gc.collect()
    gc.freeze()
    is_done = code == 0 and not empty
    return Outcome(
        code=code,
        message="\n".join(said),
        output=part_of(Path(unit.outputs[-1])) if is_done else None,
        rejects=tuple(
            part_of(Path(path)) if path is not None and os.path.exists(path) else None
            for path in unit.rejects
        ),
        counts=tuple(counts),
        empty=empty,
        wall_s=round(time.monotonic() - start, 3),
    )


def _whole(path: str) -> Piece:
    return Piece(path=path, start=0, end=os.path.getsize(path))


def _open_first(unit: Unit, stack: ExitStack) -> dict[str, Any]:
    """What the first stage reads, as values; pieces stand in for stdin."""
    if unit.pieces:
        _record_pieces(unit)
        source = io.BufferedReader(Pieces(unit.pieces))
        stack.enter_context(standing_in(source, unit.source, unit.first_line))
        return {"inputs": [STDIO]}
    if unit.stages[0].name != "extract":
        return {"inputs": list(unit.files)}
    values: dict[str, Any] = {"paths": list(unit.files), "files_from": unit.files_from}
    if unit.files_from is not None:
        values |= {"include": None, "exclude": None}
    return values


def _record_pieces(unit: Unit) -> None:
    """A manifest in the store that says which files the bytes about to be read are parts of."""
    source = Pieces(unit.pieces)
    digest, num_bytes = xxhash.xxh3_128(), 0
    buffer = bytearray(1 << 20)
    while size := source.readinto(buffer):
        digest.update(memoryview(buffer)[:size])
        num_bytes += size
    source.close()
    found = digest.hexdigest()
    if [part.digest for part in unit.parents] == [found]:
        return
    sys.argv[1:] = ["run", "(unit " + unit.key + ")"]
    recorder = Recorder("run", {"unit": unit.key})
    recorder.inputs = [
        {"path": part.path, "bytes": part.num_bytes, "digest": part.digest} for part in unit.parents
    ]
    recorder.outputs = [{"path": unit.source, "bytes": num_bytes, "digest": found}]
    recorder.write_beside()


def _parameters(stage: Stage) -> frozenset[str]:
    function = _function(stage)
    return frozenset(function.__annotations__)


def _function(stage: Stage) -> Callable[..., None]:
    if stage.part:
        parts = importlib.import_module(f"llmtools.commands.{stage.name}_units")
        found: Callable[..., None] = getattr(parts, stage.part)
        return found
    importlib.import_module(f"llmtools.commands.{cli.COMMANDS[stage.name].module}")
    return FUNCTIONS[stage.name, stage.verb]


def call_stage(stage: Stage, values: dict[str, Any]) -> tuple[int, str, str, dict[str, Any] | None]:
    """Call a command: exit code, what it said on stderr, why nothing was left, its report."""
    stdout, stderr = io.StringIO(), io.StringIO()
    empty: list[NothingLeft] = []

    def work() -> None:
        try:
            _function(stage)(**values)
        except NothingLeft as fault:
            empty.append(fault)

    sys.argv[1:] = [stage.title, values["output"]]
    terminal.configure(quiet=True, json=True, color=False, progress="never")
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = cli.guarded(work, bool(os.environ.get("LLMTOOLS_TRACEBACK")))
    message = stderr.getvalue().strip().removeprefix("error: ")
    lines = stdout.getvalue().splitlines()
    if empty:
        return code, message, str(empty[0]), dict(empty[0].counts or {})
    return code, message, "", json.loads(lines[-1]) if lines else None


def rehearse(stages: Sequence[Stage], folder: str) -> list[str]:
    """What is wrong with the stages' settings, found by running each on an empty input.

    `extract` is left out: its parser knows all that can be wrong.
    """
    mistakes = []
    with tempfile.TemporaryDirectory(dir=folder, prefix="phase-rehearsal-") as scratch:
        for number, stage in enumerate(stages, 1):
            if stage.name == "extract":
                continue
            values = stage.values | {"inputs": [STDIO], "output": f"{scratch}/{number}"}
            with standing_in(io.BufferedReader(Pieces([]))):
                code, message, _, _ = call_stage(stage, values)
            if code:
                mistakes.append(f"stage {number} ({stage.title}): {message}")
    return mistakes
