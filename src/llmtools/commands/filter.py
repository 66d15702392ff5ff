"""`llm filter`: keep the documents that pass quality rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmtools import terminal
from llmtools.commands.common import (
    DryRun,
    Force,
    IdKey,
    Inputs,
    OnErrorFlag,
    Output,
    Rejects,
    TextKey,
    check_json_output,
    command,
    lean_process,
    make_app,
    report,
    resolve_inputs,
    show_plan,
)
from llmtools.commands.rule_flags import given_values, with_rule_flags
from llmtools.data.rules.table import DEFAULT_RULES, KINDS, choose, unused
from llmtools.formats.stream import STDIO

app = make_app()


@command(
    app,
    "filter",
    has_units=True,
    examples=[
        "llm filter crawl.jsonl.zst --rejects dropped.jsonl -o kept.jsonl.zst",
        "llm extract site/ | llm filter --rules length,symbols --min-doc-words 20 | llm dedup",
    ],
)
@with_rule_flags
def filter_(
    inputs: Inputs = None,
    output: Output = STDIO,
    force: Force = False,
    dry_run: DryRun = False,
    rules: Annotated[
        str | None,
        typer.Option(
            help=f"Rules to apply, in this order: {', '.join(KINDS)}."
            f"  [default: {','.join(DEFAULT_RULES)}; none with --where]"
        ),
    ] = None,
    rejects: Rejects = None,
    annotate: Annotated[
        bool,
        typer.Option("--annotate", help="Drop nothing; add metadata.measures and .reject."),
    ] = False,
    stats: Annotated[
        Path | None,
        typer.Option("--stats", help="Write what each rule saw, dropped and cost, as JSON."),
    ] = None,
    on_error: OnErrorFlag = "fail",
    text_key: TextKey = "text",
    id_key: IdKey = "id",
    **thresholds: Any,
) -> None:
    """Keep the documents that pass quality rules."""
    for path in (output, rejects):
        check_json_output(path)
    given = given_values(thresholds)
    names = None
    if rules is not None:
        names = tuple(name.strip() for name in rules.split(",") if name.strip())
    settings = choose(names, given)
    for name in unused(settings, given):
        terminal.warn(f"--{name.replace('_', '-')} has no effect: --rules leaves its rule out")
    paths = resolve_inputs(inputs)
    lean_process()
    if dry_run:
        from llmtools.plan.data import plan_filter

        show_plan(
            plan_filter(
                paths,
                output,
                rejects=rejects,
                on_error=on_error,
                text_key=text_key,
                id_key=id_key,
                force=force,
            )
        )
        return
    from llmtools.data.filter import filter_documents

    counts = filter_documents(
        paths,
        output,
        settings,
        rejects=rejects,
        on_error=on_error,
        annotate=annotate,
        stats=None if stats is None else str(stats),
        text_key=text_key,
        id_key=id_key,
        force=force,
    )
    word = "rejected" if annotate else "dropped"
    reasons = ", ".join(f"{name} {count:,}" for name, count in counts[word].items())
    report(
        counts,
        f"filter: {counts['documents_kept']:,} of {counts['documents_in']:,} documents kept"
        f" ({word}: {reasons})",
    )
