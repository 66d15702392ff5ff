"""`llm extract`: files and source trees to documents."""

from __future__ import annotations

from typing import Annotated

import typer

from llmtools import terminal
from llmtools.commands.common import (
    DryRun,
    Force,
    Output,
    check_json_output,
    command,
    make_app,
    report,
    show_plan,
)
from llmtools.formats.input_names import STDIO
from llmtools.formats.skips import OnError

app = make_app()


@command(
    app,
    "extract",
    has_units=True,
    examples=[
        "llm extract project/ --include '*.py' --include '*.md' -o documents.jsonl.zst",
        "llm extract site/ --exclude node_modules | llm filter | llm dedup -o clean.jsonl",
    ],
)
def extract(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files, directories or globs.")
    ],
    output: Output = STDIO,
    force: Force = False,
    dry_run: DryRun = False,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", help="Only files that match this glob; may be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="No files or directories that match; may be repeated."),
    ] = None,
    files_from: Annotated[
        str | None,
        typer.Option(
            "--files-from",
            help="Take only the files that this file lists, PATH/... one a line; walk nothing.",
        ),
    ] = None,
    max_bytes: Annotated[
        int, typer.Option("--max-bytes", min=1, help="Skip files larger than this.")
    ] = 10_000_000,
    rejects: Annotated[
        str | None,
        typer.Option("--rejects", help="Name the files that are no documents here, and why."),
    ] = None,
    on_error: Annotated[
        OnError,
        typer.Option("--on-error", help="fail: end at a file that is unreadable or not UTF-8."),
    ] = "skip",
) -> None:
    """Turn files and source trees into documents, one for each UTF-8 text file.

    Globs without a slash match names, with one paths below PATH; `*` crosses slashes.
    """
    for path in (output, rejects):
        check_json_output(path)
    from llmtools.data.extract import ExtractSettings, read_list
    from llmtools.data.extract import extract as run

    files = None if files_from is None else read_list(files_from)
    settings = ExtractSettings(
        include=tuple(include or ()), exclude=tuple(exclude or ()), max_bytes=max_bytes
    )
    if dry_run:
        from llmtools.plan.documents import plan_extract

        show_plan(plan_extract(paths, output, settings, files=files, rejects=rejects, force=force))
        return
    counts = run(
        paths, output, settings, files=files, rejects=rejects, on_error=on_error, force=force
    )
    skipped = ", ".join(f"{reason} {count:,}" for reason, count in counts["skipped"].items())
    report(
        counts,
        f"extract: {counts['documents']:,} documents, {terminal.human_count(counts['bytes'])}B"
        + (f" (skipped: {skipped})" if skipped else ""),
    )
