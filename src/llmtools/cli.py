"""The `llm` program: a static table of commands, help, version, signals and exit codes.

Only the standard library is imported here, so that `llm --help` answers at once; a command's own
module (and typer) is loaded when that command runs. Exit codes are listed in docs/cli.md.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from llmtools import __version__, signals, terminal
from llmtools.errors import LLMToolsError, did_you_mean, is_no_memory


class Command:
    """One row of the command table; the module exports `app`, a typer application.

    verbs: the second words of a noun that owns several actions, each with its line; empty for a
    plain command. The module of a noun exports `apps`, one application for each verb.
    """

    __slots__ = ("group", "module", "summary", "verbs")

    def __init__(
        self, group: str, module: str, summary: str, verbs: dict[str, str] | None = None
    ) -> None:
        self.group, self.module, self.summary = group, module, summary
        self.verbs = verbs or {}


COMMANDS = {
    "extract": Command("data", "extract", "Turn files and source trees into documents."),
    "filter": Command("data", "filter", "Keep the documents that pass quality rules."),
    "dedup": Command("data", "dedup", "Remove exact and near duplicates (MinHash-LSH)."),
    "scorer": Command(
        "data",
        "scorer",
        "Train what scores documents.",
        verbs={"train": "Train a language model on documents."},
    ),
    "score": Command("data", "score", "Add scores to documents: perplexity, quality."),
    "tokenizer": Command(
        "data",
        "tokenizer",
        "Train, extend and compare tokenizers.",
        verbs={
            "train": "Train a tokenizer: BPE, WordPiece, Unigram, words, characters.",
            "extend": "Add tokens for a new language or domain to a tokenizer or model.",
            "compare": "Print how several tokenizers encode the same documents.",
        },
    ),
    "tokenize": Command("data", "tokenize", "Encode documents as token frames."),
    "detokenize": Command("data", "detokenize", "Decode token frames back to documents."),
    "pack": Command("data", "pack", "Pack documents or tokens into training rows."),
    "run": Command("data", "run", "Run a pipe of data commands in parallel, resumably."),
    "pretrain": Command("train", "pretrain", "Train a decoder on packed shards."),
    "finetune": Command("train", "finetune", "Fine-tune a model on conversations, full or LoRA."),
    "quantize": Command("shrink", "quantize", "Write a smaller model and show what it costs."),
    "eval": Command("run", "eval", "Measure a model."),
    "compare": Command("run", "compare", "Compare two evaluations, example by example."),
    "generate": Command("run", "generate", "Generate text from prompts."),
    "serve": Command("run", "serve", "Serve a model over the OpenAI HTTP API."),
    "inspect": Command("look", "inspect", "Say what a file or directory is and holds."),
    "why": Command("look", "why", "Say what became of a document on its way to an artefact."),
    "completion": Command("look", "completion", "Print a completion script for a shell."),
    "doctor": Command("look", "doctor", "Check versions, devices, extras and the PATH."),
}

GROUPS = {
    "data": "Data",
    "train": "Train",
    "shrink": "Shrink",
    "run": "Run",
    "look": "Look",
}

# Flags every command has, so they may also stand before the command's name.
GLOBAL_FLAGS = {
    *(
        "-q",
        "--quiet",
        "-v",
        "--verbose",
        "--json",
        "--no-color",
        "--traceback",
        "--show-config",
        "--offline",
    )
}
GLOBAL_VALUES = {"--progress", "--config"}


def root_help() -> str:
    """The text of `llm --help`."""
    width = max(map(len, COMMANDS)) + 2
    lines = ["Usage: llm COMMAND [OPTIONS] [INPUT...] [-o OUTPUT]", ""]
    for group, title in GROUPS.items():
        lines.append(f"{title}:")
        lines += [
            f"  {name:<{width}}{command.summary}"
            for name, command in COMMANDS.items()
            if command.group == group
        ]
        lines.append("")
    lines += [
        "Everywhere: -h/--help  -q/--quiet  -v/--verbose  --json  --no-color",
        "            --progress auto|always|never  --config FILE  --show-config  --offline",
        "",
        "A pipe from raw text to training data:",
        "  llm extract site/ | llm filter | llm dedup | llm tokenize -t tokenizer.json \\",
        "    | llm pack --seq-len 1024 -o train/",
        "",
        "`llm COMMAND --help` shows a command's options and examples.",
    ]
    return "\n".join(lines) + "\n"


def noun_help(name: str) -> str:
    """The text of `llm NOUN --help`."""
    command = COMMANDS[name]
    width = max(map(len, command.verbs)) + 2
    lines = [f"Usage: llm {name} COMMAND [OPTIONS] ...", "", f"  {command.summary}", ""]
    lines += [f"  {verb:<{width}}{summary}" for verb, summary in command.verbs.items()]
    lines += ["", f"`llm {name} COMMAND --help` shows a command's options and examples."]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Run one command and exit with its code."""
    signals.install()
    sys.unraisablehook = _unraisable
    try:
        code = run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    finally:
        signals.ignore()
    if signals.received() is not None:
        _leave_threads(code)
    sys.exit(code)


def _leave_threads(code: int) -> None:
    """End the process now if an interruption left a thread behind, as a second Ctrl-C may.

    Python's own shutdown stops such a thread wherever it next takes the interpreter's lock; where
    that is below a library's C++ frames, as in a step of a model, the process aborts.
    """
    import contextlib

    # Not threading.enumerate(), which leaves out threads that a library began.
    if len(sys._current_frames()) == 1:
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _unraisable(fault: sys.UnraisableHookArgs) -> None:
    """Python's report of a fault that cannot be raised, but for memory that ran out.

    What is closed on the way out of such a run may run out again; one message is enough.
    """
    if fault.exc_type is not MemoryError:
        signals.report_unraisable(fault)


def run(argv: list[str]) -> int:
    """Run one command; returns its exit code."""
    leading: list[str] = []
    while argv and argv[0].partition("=")[0] in GLOBAL_FLAGS | GLOBAL_VALUES:
        count = 2 if argv[0] in GLOBAL_VALUES else 1
        leading += argv[:count]
        argv = argv[count:]
    if not argv:
        sys.stderr.write(root_help())
        return 2
    name, rest = argv[0], argv[1:]
    if name in ("-h", "--help"):
        return guarded(lambda: terminal.emit_text(root_help()), False)
    if name == "--version":
        return guarded(lambda: terminal.emit_text(f"llmtools {__version__}\n"), False)
    command = COMMANDS.get(name)
    if command is None:
        kind = "option" if name.startswith("-") else "command"
        terminal.error(f"no {kind} {name!r}{did_you_mean(name, COMMANDS)} (llm --help lists all)")
        return 2
    program = f"llm {name}"
    verb = None
    if command.verbs:
        if not rest or rest[0] in ("-h", "--help"):
            shown = noun_help(name)
            if not rest:
                sys.stderr.write(shown)
                return 2
            return guarded(lambda: terminal.emit_text(shown), False)
        verb = rest.pop(0)
        if verb not in command.verbs:
            near = did_you_mean(verb, command.verbs)
            terminal.error(f"no command '{name} {verb}'{near} ({program} --help lists all)")
            return 2
        program += f" {verb}"
    show_traceback = "--traceback" in leading + rest or bool(os.environ.get("LLMTOOLS_TRACEBACK"))

    def invoke() -> None:
        import importlib

        from llmtools.commands.common import run_typer

        module = importlib.import_module(f"llmtools.commands.{command.module}")
        run_typer(module.app if verb is None else module.apps[verb], program, leading + rest)

    return guarded(invoke, show_traceback)


def guarded(work: object, show_traceback: bool) -> int:
    """Run `work()` and turn every way it can end into an exit code with at most one message."""
    assert callable(work)
    try:
        try:
            work()
            sys.stdout.flush()
        finally:
            # How it ended is decided: a further signal must not disturb saying so.
            signals.ignore()
        return 0
    except LLMToolsError as fault:
        if show_traceback:
            raise
        terminal.error(str(fault))
        return fault.exit_code
    except BrokenPipeError:
        # The reader left, as `head` does. stdout must not be flushed again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        terminal.error("interrupted")
        return 128 + signal.SIGINT
    except OSError as fault:
        if show_traceback:
            raise
        if not is_no_memory(fault):
            terminal.error(_in_words(fault))
            return _code_of(fault)
    except Exception as fault:
        # Room to think, and to say it.
        _reserve.clear()
        if (number := signals.received()) is not None:
            # A library turned the interruption into an exception of its own.
            terminal.error("interrupted")
            return 128 + number
        if show_traceback:
            raise
        if not is_no_memory(fault):
            terminal.error(
                f"internal error: {type(fault).__name__}: {fault}\n"
                "This is a bug in llmtools; run again with --traceback and report what it prints."
            )
            return 70
    # Said here, where the exception is gone and with it all that its frames held.
    terminal.error("out of memory; use smaller inputs or batches, or a machine with more")
    return 4


# Never touched, so that it takes address space alone; given up when memory has run out.
_reserve = [bytearray(1 << 20)]


def _in_words(fault: OSError) -> str:
    """'FILE: No such file or directory', as the shell's own tools say it."""
    if fault.strerror is None or not isinstance(fault.filename, str):
        return str(fault)
    return f"{fault.filename}: {fault.strerror}"


def _code_of(fault: OSError) -> int:
    lacks = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM)
    return 4 if fault.errno in lacks else 3
