"""What every subcommand shares: its typer application, global flags, and common options."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import resource
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from llmtools import cli, terminal
from llmtools.commands.parsing import ClickException, SettingsCommand
from llmtools.errors import UsageError
from llmtools.formats.hub import OFFLINE
from llmtools.formats.input_names import DATA_SUFFIXES, STDIO, expand_inputs
from llmtools.formats.peak_memory import peak_memory
from llmtools.formats.skips import OnError
from llmtools.shards.place import Executor

if TYPE_CHECKING:
    from llmtools.plan.estimate import Plan

Inputs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[INPUT]...", help="Files, directories, globs, or - for stdin."),
]
Output = Annotated[str, typer.Option("-o", "--output", help="Where to write; - is stdout.")]
Force = Annotated[bool, typer.Option("-f", "--force", help="Replace an existing output.")]
TextKey = Annotated[str, typer.Option("--text-key", help="The field that holds the text.")]
IdKey = Annotated[str, typer.Option("--id-key", help="The field that holds the id.")]
TokenizerPath = Annotated[
    str,
    typer.Option(
        "-t",
        "--tokenizer",
        help="A tokenizer.json, model directory, GGUF, sentencepiece or tiktoken file.",
    ),
]
OnErrorFlag = Annotated[
    OnError,
    typer.Option("--on-error", help="A malformed record ends the run, or is skipped and counted."),
]
Rejects = Annotated[
    str | None, typer.Option("--rejects", help="Write dropped documents here, with the reason.")
]
DryRun = Annotated[
    bool,
    typer.Option("-n", "--dry-run", help="Check everything, print memory, disk and time, and end."),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads for maths.  [default: all cores]"),
]
BaseModel = Annotated[
    Path | None,
    typer.Option("--base", help="An adapter's base model, where its config is wrong."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]

_GLOBALS: dict[str, tuple[Any, Any]] = {
    "quiet": (Annotated[bool, typer.Option("-q", "--quiet", help="No notes, no progress.")], False),
    "verbose": (
        Annotated[bool, typer.Option("-v", "--verbose", help="Also time and memory.")],
        False,
    ),
    "as_json": (Annotated[bool, typer.Option("--json", help="Results as one JSON object.")], False),
    "no_color": (Annotated[bool, typer.Option("--no-color", help="No colour.")], False),
    "progress": (
        Annotated[
            Literal["auto", "always", "never"],
            typer.Option("--progress", help="Progress on stderr (auto: on a terminal)."),
        ],
        "auto",
    ),
    "config": (
        Annotated[
            str | None,
            typer.Option("--config", help="Settings as TOML.  [default: ./llmtools.toml]"),
        ],
        None,
    ),
    "show_config": (
        Annotated[
            bool,
            typer.Option("--show-config", help="Print the settings in force and their origin."),
        ],
        False,
    ),
    "offline": (
        Annotated[
            bool, typer.Option("--offline", help="Never download: hf: models from the cache.")
        ],
        False,
    ),
    "traceback": (
        Annotated[bool, typer.Option("--traceback", help="Show Python tracebacks.")],
        False,
    ),
}


def make_app() -> typer.Typer:
    """An empty application; rich help is off because importing rich costs 100 ms."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


# Those of the command that runs, for the message of one that has nothing to read.
_examples: list[str] = []


class _ReaderLeft(Exception):
    """A BrokenPipeError on its way through typer, which would turn it into exit code 1."""


F = TypeVar("F", bound=Callable[..., None])

# Every command's function, by name and verb, once its module is loaded.
FUNCTIONS: dict[tuple[str, str | None], Callable[..., None]] = {}
_resolved: list[dict[str, Any]] | None = None


def resolve_values(name: str, verb: str | None, arguments: list[str]) -> dict[str, Any]:
    """The values that a command line would call a command with; it is not run.

    Raises UsageError for what the command's own parser refuses.
    """
    global _resolved
    module = importlib.import_module(f"llmtools.commands.{cli.COMMANDS[name].module}")
    found: list[dict[str, Any]] = []
    _resolved = found
    try:
        app = module.app if verb is None else module.apps[verb]
        run_typer(app, f"llm {name}" if verb is None else f"llm {name} {verb}", arguments)
    except SystemExit as stop:
        raise UsageError(f"{name}: --help and the like have no place here") from stop
    finally:
        _resolved = None
    if not found:
        raise UsageError(f"{name}: --help and the like have no place here")
    return found[0]


ShardBytes = Annotated[
    str, typer.Option("--shard-bytes", help="Input of a unit; larger files are cut.")
]
ExecutorFlag = Annotated[
    Executor,
    typer.Option("--executor", help="Where units run: local, a Slurm array, a Ray cluster."),
]
Shard = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="One of N processes that share --work-dir."),
]
WorkDir = Annotated[
    Path | None,
    typer.Option("--work-dir", help="Keeps what is done.  [default: beside the output]"),
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", help="A running Ray cluster.  [default: $RAY_ADDRESS, or own]"),
]
# A second or a few of work: little is lost with a unit, and the 20 ms of its own are little too.
SHARD_BYTES = "16M"
# Flags of commands that treat each document alone, and so can run in units (sharding.py).
_UNITS: dict[str, tuple[Any, Any]] = {
    "workers": (
        Annotated[
            int | None,
            typer.Option(
                "--workers",
                min=1,
                help="Processes; needs files and -o.  [default: 1; with an executor all cores]",
            ),
        ],
        None,
    ),
    "work_dir": (WorkDir, None),
    "shard_bytes": (ShardBytes, SHARD_BYTES),
    "resume": (
        Annotated[
            bool, typer.Option("--resume/--no-resume", help="Go on with what --work-dir holds.")
        ],
        True,
    ),
    "executor": (ExecutorFlag, "local"),
    "shard": (Shard, None),
    "ray_address": (RayAddress, None),
}


def command(
    app: typer.Typer,
    name: str,
    *,
    examples: Sequence[str],
    verb: str | None = None,
    has_units: bool = False,
) -> Callable[[F], F]:
    """Register a function as the command `name` (or the verb of a two-word command).

    Its first docstring paragraph, or the root table's line, and two real examples open the help.
    The global display flags are added to its signature and applied before it runs; with `has_units`
    also those of _UNITS.
    """
    flags = _GLOBALS | (_UNITS if has_units else {})

    def register(function: F) -> F:
        FUNCTIONS[name, verb] = function
        own = inspect.signature(function, eval_str=True)
        # A command may have a use of its own for some of them.
        shared = own.parameters.keys() & flags.keys()
        added = [
            inspect.Parameter(
                key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
            for key, (annotation, default) in flags.items()
            if key not in shared
        ]

        def run(**values: Any) -> None:
            given = {key: values[key] if key in shared else values.pop(key) for key in flags}
            if _resolved is not None:
                _resolved.append(values)
                return
            terminal.configure(
                quiet=given["quiet"],
                verbose=given["verbose"],
                json=given["as_json"],
                color=not given["no_color"],
                progress=given["progress"],
            )
            if given["offline"]:
                os.environ[OFFLINE] = "1"
            _examples[:] = examples
            started_s = time.monotonic()
            try:
                is_phase = values.get("phase") is not None
                if has_units and _wants_units(given) and not is_phase:
                    from llmtools.commands.sharding import plan_in_units, run_in_units

                    act = plan_in_units if values.get("dry_run") else run_in_units
                    act(name, values, **{key: given[key] for key in _UNITS})
                else:
                    function(**values)
            except BrokenPipeError as fault:
                raise _ReaderLeft from fault
            usage = resource.getrusage(resource.RUSAGE_SELF)
            terminal.detail(
                f"{name}: {time.monotonic() - started_s:.1f} s,"
                f" {usage.ru_utime + usage.ru_stime:.1f} s of CPU,"
                f" {peak_memory() / (1 << 20):.0f} MB of memory at most"
            )

        parameters = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.parameters.values()
        ]
        run.__signature__ = own.replace(parameters=parameters + added)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*parameters, *added]}
        summary = inspect.getdoc(function) or cli.COMMANDS[name].summary
        shown = "\n".join(f"  {line}" for line in examples)
        text = f"{summary}\n\n\b\nExamples:\n{shown}"
        app.command(verb or name, cls=SettingsCommand, help=text)(run)
        return function

    return register


def _wants_units(given: Mapping[str, Any]) -> bool:
    if (given["workers"] or 1) > 1 or given["executor"] != "local":
        return True
    if given["work_dir"] is not None or given["shard"] is not None:
        return True
    alone = {
        "resume": "--no-resume",
        "shard_bytes": "--shard-bytes",
        "ray_address": "--ray-address",
    }
    for key, flag in alone.items():
        if given[key] != _UNITS[key][1]:
            raise UsageError(f"{flag} has no effect without --workers, --executor or --work-dir")
    return False


def run_typer(app: typer.Typer, program: str, arguments: list[str]) -> None:
    """Parse and run; raises UsageError for a bad command line, SystemExit for --help."""
    parser = typer.main.get_command(app)
    try:
        code = parser.main(args=arguments, prog_name=program, standalone_mode=False)
    except _ReaderLeft as fault:
        raise BrokenPipeError from fault
    except typer.Abort as fault:
        raise KeyboardInterrupt from fault
    except ClickException as fault:
        message = fault.format_message()  # type: ignore[attr-defined]
        raise UsageError(f"{message} ({program} --help shows the options)") from fault
    if isinstance(code, int) and code:
        sys.exit(code)


def resolve_inputs(
    inputs: Sequence[str] | None, suffixes: tuple[str, ...] = DATA_SUFFIXES
) -> list[str]:
    """The files a command reads: those given, else stdin unless that is a terminal."""
    if not inputs:
        if terminal.stdin_is_terminal():
            shown = "".join(f"\n  {line}" for line in _examples)
            raise UsageError(f"no input: name files, or pipe data in, as{shown}")
        inputs = [STDIO]
    return expand_inputs(inputs, suffixes)


def check_json_output(output: str | None) -> None:
    """--json puts the report on stdout, so a data command needs its data elsewhere."""
    if terminal.display().json and output == STDIO:
        raise UsageError("--json prints the report on stdout; give the data a place with -o FILE")


def report(summary: Mapping[str, Any], message: str) -> None:
    """A data command's closing words: one JSON object with --json, else one line on stderr.

    Malformed records that were skipped are always named.
    """
    if terminal.display().json:
        terminal.emit_json(summary)
        return
    skipped = summary.get("documents_skipped", 0)
    if skipped and f"skipped {skipped:,}" not in message:
        message += f"; {skipped:,} malformed records skipped"
    terminal.note(message)


def show_plan(plan: Plan) -> None:
    """What --dry-run asked for: the plan on stdout, as one JSON object with --json."""
    if terminal.display().json:
        terminal.emit_json(plan.to_json())
    else:
        terminal.emit_text(plan.to_text())


def resume_command(program: str) -> str:
    """The command line that continues this run: its own, without the flags that start over."""
    dropped = ("-f", "--force", "--no-resume")
    kept = [argument for argument in sys.argv[1:] if argument not in dropped]
    return shlex.join([program, *kept])


def byte_size(option: str, given: str) -> int:
    """'64M' as bytes: a number and, optionally, K, M, G or T (powers of 1024)."""
    match = re.fullmatch(r"(\d{1,15})([KMGT]?)(?:i?B)?", given, re.IGNORECASE)
    size = 0 if match is None else int(match[1]) << (10 * " KMGT".index(match[2].upper() or " "))
    if size < 1:
        raise UsageError(f"{option} {given!r}: write a size such as 64M or 2G")
    return size
