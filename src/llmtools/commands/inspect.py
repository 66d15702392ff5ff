"""`llm inspect`: what a file or directory is and holds."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from llmtools import terminal
from llmtools.commands.common import command, make_app

app = make_app()


@command(
    app,
    "inspect",
    examples=["llm inspect model.gguf", "llm inspect run/ --json | jq .last_metrics"],
)
def inspect(
    path: Annotated[str, typer.Argument(help="Any artefact: data, model, run, results ...")],
) -> None:
    """Say what a file or directory is and holds.

    Documents, token frames, packed shards, model directories, GGUF files, adapters, tokenizers,
    runs, results and manifests; the manifest beside an artefact is shown with it.
    """
    from llmtools.formats.describe import describe

    description = describe(path)
    if description["kind"] == "tokenizer":
        from llmtools.tokenizer.load import load_tokenizer

        description["identity"] = load_tokenizer(path).identity
    if terminal.display().json:
        terminal.emit_json(description)
    else:
        terminal.emit_text("\n".join(_lines(_brief(description), 0)) + "\n")


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
            # Control characters of foreign text must not reach the terminal.
            shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
            lines.append(f"{' ' * indent}{key}: {shown}")
    return lines
