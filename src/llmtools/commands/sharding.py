"""Commands as stages of the runner: parsed without being run, and run on one unit.

`python -m llmtools.commands.sharding` is a worker process. It is given units as lines of JSON on
stdin, answers each with its outcome on stdout, and ends when stdin does.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xxhash

from llmtools import cli, terminal
from llmtools.commands.common import FUNCTIONS, byte_size, report, resolve_values, resume_command
from llmtools.commands.pack_stages import pack_stages
from llmtools.commands.rule_flags import rule_fields
from llmtools.errors import InputError, LLMToolsError, UsageError
from llmtools.formats.claim import remove
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.manifest import Recorder, digest_file, manifest_path
from llmtools.formats.stream import STDIO, check_outputs, expand_inputs, standing_in, write_file
from llmtools.shards import runner
from llmtools.shards.join import part_of
from llmtools.shards.pipeline import KINDS, Pipeline, check_names, phases, writes_frames
from llmtools.shards.place import Executor, find_place, num_cpus
from llmtools.shards.split import Scan, Share, scan, shares
from llmtools.shards.unit import Outcome, Piece, Pieces, Stage, Unit, unit_from

PROGRAM = [sys.executable, "-P", "-m", "llmtools.commands.sharding"]
# What a stage reads and writes; the rest of its values decide what it does.
_PLACES = (
    "inputs paths files_from output force rejects stats phase explain work_dir shard dry_run"
).split()
# Flags of the whole run, which a stage cannot have on its own.
_RUNS_OWN = frozenset(
    "-h --help --show-config -n --dry-run --workers --work-dir --shard-bytes --resume"
    " --no-resume --executor --shard --ray-address".split()
) | (cli.GLOBAL_FLAGS | cli.GLOBAL_VALUES) - {"--config"}


def parse_pipeline(stages: Sequence[Sequence[str]]) -> Pipeline:
    """The stages' command lines, each read by its own parser; all mistakes in one UsageError."""
    mistakes = check_names(stages)
    if mistakes:
        raise UsageError("\n".join(mistakes))
    values: list[dict[str, Any]] = []
    for number, words in enumerate(stages, 1):
        is_first, is_last = number == 1, number == len(stages)
        flags = [word for word in words if word in _RUNS_OWN]
        if flags:
            mistakes.append(f"stage {number}: {flags[0]} has no place in a stage; llm run has it")
            continue
        try:
            verb = KINDS[words[0]].verb
            found = resolve_values(words[0], verb, list(words[1 if verb is None else 2 :]))
            mistakes += [f"stage {number}: {m}" for m in _misplaced(found, is_first, is_last)]
            if found.get("stats") is not None:
                reason = "--stats has no place in a stage; --json of llm run has the same of all"
                mistakes.append(f"stage {number}: {reason}")
            values.append(found)
        except UsageError as fault:
            mistakes.append(f"stage {number}: {fault}")
    if mistakes:
        raise UsageError("\n".join(mistakes))
    return make_pipeline([words[0] for words in stages], values)


def make_pipeline(names: Sequence[str], values: Sequence[dict[str, Any]]) -> Pipeline:
    """A pipeline of commands with all their values."""
    stages = tuple(
        Stage(
            name=name,
            verb=KINDS[name].verb,
            values={key: value for key, value in found.items() if key not in _PLACES},
        )
        for name, found in zip(names, values, strict=True)
    )
    first, last = values[0], values[-1]
    return Pipeline(
        stages=stages,
        inputs=tuple(first.get("paths") or first.get("inputs") or ()),
        output=last["output"],
        force=last["force"],
        rejects=tuple(found.get("rejects") for found in values),
    )


def _misplaced(values: dict[str, Any], is_first: bool, is_last: bool) -> list[str]:
    """Inputs and outputs that a stage at this place cannot have."""
    found = []
    inputs = values.get("paths") or values.get("inputs") or []
    if is_first and (not inputs or STDIO in inputs):
        found.append("the first stage names its files; stdin could not be read again")
    if not is_first and inputs:
        found.append(f"reads the stage before it, not {inputs[0]!r}; only the first names files")
    if values.get("files_from") is not None:
        found.append("--files-from has no place in a pipeline, which makes its own lists")
    output = values.get("output", STDIO)
    if is_last and output == STDIO:
        found.append("the last stage needs -o: stdout could not be resumed")
    if not is_last and output != STDIO:
        found.append(f"gives what it writes to the next stage; -o {output} belongs to the last one")
    if not is_last and values.get("format", "frames") not in ("frames", "packed"):
        found.append(f"--format {values['format']} belongs to the last stage; others write frames")
    if not is_last and values.get("force"):
        found.append("-f belongs to the last stage")
    for flag in ("phase", "explain"):
        if values.get(flag) is not None:
            found.append(f"--{flag} has no place here; it is for llm dedup alone")
    if values.get("rejects") == STDIO:
        found.append("--rejects needs a file")
    return found


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
    mistakes = _misplaced(values, is_first=True, is_last=True)
    if mistakes:
        raise UsageError("--workers, --executor and --work-dir: " + "; ".join(mistakes))
    place = find_place(executor, shard, os.environ)
    if place.is_shared and work_dir is None:
        raise UsageError("--executor slurm and --shard need --work-dir, which all processes see")
    pipeline = make_pipeline(*(pack_stages(values) if name == "pack" else ([name], [values])))
    stats = None if values.get("stats") is None else str(values["stats"])
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


def settings_of(pipeline: Pipeline) -> dict[str, str]:
    """What decides the output besides values: contents of tokenizers and scorers, by digest."""
    found = {}
    for stage in pipeline.stages:
        if stage.name == "filter":
            named = (
                stage.values.get(k) for k, (f, _) in rule_fields().items() if f.metadata["is_file"]
            )
            for file in (Path(str(name)) for name in named if name is not None):
                if file.is_file():
                    found[f"contents of {file}"] = digest_file(file)[1]
        for scorer in stage.values.get("scorers") or ():
            files = sorted(Path(scorer).glob("*")) if os.path.isdir(scorer) else [Path(scorer)]
            for file in filter(Path.is_file, files):
                found[f"contents of {file}"] = digest_file(file)[1]
        name = stage.values.get("tokenizer")
        if name is not None:
            path = Path(name) / "tokenizer.json" if os.path.isdir(name) else Path(name)
            if not path.is_file():
                raise InputError(f"{stage.title}: {path}: no such file")
            found[f"contents of {path}"] = digest_file(path)[1]
    return found


class FileSource:
    """Data files, by name, directory or glob."""

    def __init__(
        self, inputs: Sequence[str], suffixes: tuple[str, ...] | None, shard_bytes: int
    ) -> None:
        self._shard_bytes = shard_bytes
        self._paths = expand_inputs(inputs) if suffixes is None else expand_inputs(inputs, suffixes)
        for path in self._paths:
            if not os.path.isfile(path):
                raise UsageError(f"{path}: not a regular file; it could not be read again")
        self._scans: dict[str, Scan] = {}
        self.counts: dict[str, Any] = {}

    def identify(self, known: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for path in self._paths:
            state = os.stat(path)
            old = known.get(path, {})
            if (old.get("bytes"), old.get("mtime_ns")) == (state.st_size, state.st_mtime_ns):
                found[path] = old
                continue
            found[path] = {
                "bytes": state.st_size,
                "mtime_ns": state.st_mtime_ns,
                "digest": self._scan(path).digest,
            }
        return found

    def _scan(self, path: str) -> Scan:
        if path not in self._scans:
            self._scans[path] = scan(path, self._shard_bytes)
        return self._scans[path]

    def shares(self, folder: Path | None, *, is_whole: bool) -> list[Share]:
        if is_whole:
            return [Share(files=tuple(self._paths))]
        found = [self._scan(path) for path in self._paths]
        for one in found:
            if not one.is_splittable and one.num_bytes > self._shard_bytes:
                terminal.detail(f"run: {one.path} cannot be cut, so one unit reads all of it")
        return list(shares(found, self._shard_bytes))


class TreeSource:
    """Files and source trees, for extract: units are groups of files in the order of the walk."""

    def __init__(self, inputs: Sequence[str], values: dict[str, Any], shard_bytes: int) -> None:
        from llmtools.data.extract import ExtractSettings, Passed, expand_arguments, find_files

        self._shard_bytes = shard_bytes
        self._arguments = expand_arguments(list(inputs))
        settings = ExtractSettings(
            include=tuple(values["include"] or ()),
            exclude=tuple(values["exclude"] or ()),
            max_bytes=values["max_bytes"],
        )
        passed = Passed(values["on_error"])
        self._files = [
            file
            for argument in self._arguments
            for file, _ in find_files(argument, settings, passed)
        ]
        if not self._files:
            raise NothingLeft(f"{', '.join(inputs)}: no file here")
        # Arguments that overlap give a file twice, which a list of files cannot say.
        self._is_whole = len(set(self._files)) < len(self._files)
        self.counts: dict[str, Any] = {}
        if not self._is_whole:
            self.counts = {"skipped": dict(passed.counts)}

    def identify(self, known: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for file in self._files:
            state = os.stat(file)
            found[_text(file)] = {"bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
        return found

    def shares(self, folder: Path | None, *, is_whole: bool) -> list[Share]:
        if self._is_whole:
            return [Share(files=tuple(self._arguments))]
        groups: list[list[str]] = [[]]
        held = 0
        for file in self._files:
            size = os.stat(file).st_size
            if groups[-1] and held + size > self._shard_bytes:
                groups.append([])
                held = 0
            groups[-1].append(file)
            held += size
        found = []
        for number, group in enumerate(groups):
            path = f"{folder}/{number:05d}.files"
            if folder is not None:
                write_file(Path(path), b"\0".join(map(os.fsencode, group)) + b"\0")
            found.append(Share(files=tuple(self._arguments), files_from=path))
        return found


def _text(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def source_of(pipeline: Pipeline, shard_bytes: int) -> FileSource | TreeSource:
    """The reader of the first stage's inputs; raises InputError where there are none."""
    first = pipeline.stages[0]
    if first.name == "extract":
        return TreeSource(pipeline.inputs, first.values, shard_bytes)
    suffixes = (".safetensors",) if first.name == "detokenize" else None
    return FileSource(pipeline.inputs, suffixes, shard_bytes)


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
            values = stage.values | {"inputs": [STDIO], "output": f"{scratch}/{number}.jsonl"}
            with standing_in(io.BufferedReader(Pieces([]))):
                code, message, _, _ = call_stage(stage, values)
            if code:
                mistakes.append(f"stage {number} ({stage.title}): {message}")
    return mistakes


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


def estimate(pipeline: Pipeline, workers: int | None) -> dict[str, Any]:
    """The plan of a run, as JSON and as text; made by a worker, as stages change their process.

    Raises UsageError or InputError for what a stage's own --dry-run refuses.
    """
    from llmtools.shards.local import Pool

    with Pool(PROGRAM, 1) as pool:
        found = pool.ask({"plan": asdict(pipeline), "workers": workers or num_cpus()})
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
        plan = plan_run(pipeline, phases(stages), request["workers"])
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
