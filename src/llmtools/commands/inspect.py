"""`llm inspect`: what a file or directory is and holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llmtools import terminal
from llmtools.commands.common import Force, command, make_app
from llmtools.errors import AnswerIsNo, UsageError

app = make_app()


@command(
    app,
    "inspect",
    examples=[
        "llm inspect tuned.gguf --lineage",
        "llm inspect run/ --json | jq .last_metrics",
    ],
)
def inspect(
    path: Annotated[str, typer.Argument(help="Any artefact: data, model, run, results ...")],
    lineage: Annotated[
        bool, typer.Option("--lineage", help="Walk from here back to the raw text.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Hash it and its lineage again; exit 1 where one changed."),
    ] = False,
    plot: Annotated[
        str | None,
        typer.Option("--plot", help="Draw a run's curves or the lengths (.png, .svg, .pdf)."),
    ] = None,
    force: Force = False,
) -> None:
    """Say what a file or directory is and holds.

    Documents, token frames, packed shards, model directories, GGUF files, adapters, tokenizers,
    runs, results and manifests; the manifest beside an artefact is shown with it.
    """
    from llmtools.formats.describe import describe
    from llmtools.formats.lineage_text import printable

    if plot is None and force:
        raise UsageError("-f has no effect without --plot")
    if plot is not None:
        _draw(path, plot, force)
        return
    if lineage or check:
        _show_lineage(path, check)
        return
    description = describe(path)
    if description["kind"] == "tokenizer":
        from llmtools.tokenizer.load import load_tokenizer

        tokenizer = load_tokenizer(path)
        description |= {"vocab_size": tokenizer.vocab_size, "identity": tokenizer.identity}
    if terminal.display().json:
        terminal.emit_json(description)
    else:
        lines = _lines(_brief(description), 0)
        terminal.emit_text("".join(printable(line) + "\n" for line in lines))


def _draw(path: str, out: str, force: bool) -> None:
    from llmtools.formats.describe import describe
    from llmtools.formats.plot import check_plot, draw, save

    check_plot(out, force=force)
    save(draw(path, describe(path)), out, force=force)
    terminal.note(f"{out}: drawn from {path}")


def _show_lineage(path: str, checks: bool) -> None:
    from llmtools.data.extract import digest_again
    from llmtools.formats.lineage import Source, Step, check, trace
    from llmtools.formats.lineage_text import as_lines, as_object, printable

    def hash_tree(step: Step, source: Source) -> str | None:
        settings = step.record.get("settings")
        return digest_again(step.folder / source.path, settings if settings else {})

    root = trace(Path(path))
    files = check(Path(path), root, hash_tree) if checks else []
    by_state = {s: [f.path for f in files if f.state == s] for s in ("ok", "changed", "missing")}
    if terminal.display().json:
        terminal.emit_json({**as_object(path, root), **({"check": by_state} if checks else {})})
    else:
        terminal.emit_text("".join(printable(line) + "\n" for line in as_lines(path, root)))
        if checks:
            counts = ", ".join(f"{len(found):,} {state}" for state, found in by_state.items())
            terminal.emit_text(f"checked {len(files):,} files: {counts}\n")
    if by_state["changed"]:
        raise AnswerIsNo(f"{path}: changed since it was recorded: {', '.join(by_state['changed'])}")


def _brief(description: dict[str, Any]) -> dict[str, Any]:
    """The same with the manifest cut to what made the artefact; --json has all of it."""
    record = description.get("manifest")
    if not isinstance(record, dict):
        return description
    kept = {k: record.get(k) for k in ("command", "version", "argv", "counts", "wall_s")}
    kept["inputs"] = [i.get("path") for i in record.get("inputs") or [] if isinstance(i, dict)]
    return {**description, "manifest": kept}


def _lines(values: dict[str, Any], indent: int) -> list[str]:
    """`key: value` lines; objects that do not fit on a line are indented below their key."""
    lines = []
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if isinstance(value, dict) and len(text) > 80:
            lines += [f"{' ' * indent}{key}:", *_lines(value, indent + 2)]
        else:
            lines.append(f"{' ' * indent}{key}: {text}")
    return lines
