"""`llm why`: what became of one document, and which command decided it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmtools import terminal
from llmtools.commands.common import command, make_app
from llmtools.errors import AnswerIsNo

if TYPE_CHECKING:
    from llmtools.formats.decisions import Decision

app = make_app()
SHOWN_RUNS = 10


@command(
    app,
    "why",
    examples=[
        "llm why asyncio/tasks.py train/",
        "llm why https://example.org/page tuned.gguf --json",
    ],
)
def why(
    document: Annotated[str, typer.Argument(metavar="ID", help="The document's id.")],
    artefact: Annotated[
        Path, typer.Argument(help="Anything made from it: documents, rows, a model ...")
    ],
) -> None:
    """Say what became of one document on its way to an artefact.

    Every command in the artefact's lineage is asked: which rule dropped the document and at what
    value, whose copy it was, in which training rows it lies. Exit 1 where none has seen it.
    """
    from llmtools.formats.decisions import decisions
    from llmtools.formats.lineage import trace

    found = decisions(artefact, trace(artefact), document)
    if terminal.display().json:
        terminal.emit_json({"id": document, "decisions": [d.as_dict() for d in found]})
    if not found:
        raise AnswerIsNo(f"{document!r}: no command in the lineage of {artefact} has seen it")
    if not terminal.display().json:
        terminal.emit_text("".join(_line(d) + "\n" for d in found))


def _line(decision: Decision) -> str:
    said = decision.verdict
    if decision.verdict == "in":
        said = f"is in {decision.place}"
    elif decision.verdict == "unknown":
        said = f"unknown: {decision.rule}"
    elif decision.verdict == "packed":
        runs = [f"{a}" if a == b else f"{a} to {b}" for a, b in decision.rows[:SHOWN_RUNS]]
        rows = ", ".join([*runs, *(["..."] if len(decision.rows) > SHOWN_RUNS else [])])
        said = f"{decision.tokens:,} tokens in rows {rows} of {decision.place}"
    elif decision.twin is not None:
        said = f"dropped ({decision.rule}): a copy of {decision.twin}"
    elif decision.rule is not None:
        value = "" if decision.value is None else f" = {decision.value:g}"
        said = f"dropped ({decision.rule}{value})"
    from llmtools.formats.lineage_text import printable

    return printable(f"{decision.step.command_line}: {said}")
