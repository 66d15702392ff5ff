"""`llm filter`: keep the documents that pass quality rules."""

from __future__ import annotations

from typing import Annotated

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
from llmtools.errors import UsageError
from llmtools.formats.stream import STDIO

app = make_app()


def _limits(option: str, given: str) -> tuple[tuple[int, float], ...]:
    """'2:0.2,3:0.18' as ((2, 0.2), (3, 0.18)); an empty string switches the checks off."""
    try:
        pairs = [item.split(":") for item in given.split(",") if item]
        return tuple((int(n), float(limit)) for n, limit in pairs)
    except ValueError as fault:
        raise UsageError(
            f"{option} {given!r}: write N:FRACTION,N:FRACTION, as 2:0.2,3:0.18"
        ) from fault


@command(
    app,
    "filter",
    has_units=True,
    examples=[
        "llm filter crawl.jsonl.zst --rejects dropped.jsonl -o kept.jsonl.zst",
        "llm extract site/ | llm filter --rules length,symbols --min-doc-words 20 | llm dedup",
    ],
)
def filter_(
    inputs: Inputs = None,
    output: Output = STDIO,
    force: Force = False,
    dry_run: DryRun = False,
    rules: Annotated[
        str, typer.Option(help="Rules to apply, in this order: length, repetition, symbols.")
    ] = "length,repetition,symbols",
    rejects: Rejects = None,
    annotate: Annotated[
        bool, typer.Option("--annotate", help="Add metadata.measures to what is written.")
    ] = False,
    min_doc_words: Annotated[int, typer.Option(min=0, help="length: words at least.")] = 50,
    max_doc_words: Annotated[int, typer.Option(min=0, help="length: words at most.")] = 100_000,
    dup_para_frac: Annotated[
        float, typer.Option(min=0, help="repetition: share of repeated paragraphs.")
    ] = 0.3,
    dup_para_char_frac: Annotated[
        float, typer.Option(min=0, help="repetition: their share of characters.")
    ] = 0.2,
    dup_line_frac: Annotated[
        float, typer.Option(min=0, help="repetition: share of repeated lines.")
    ] = 0.3,
    dup_line_char_frac: Annotated[
        float, typer.Option(min=0, help="repetition: their share of characters.")
    ] = 0.2,
    top_n_grams: Annotated[
        str, typer.Option(help="repetition: share of the most frequent n-gram, N:FRACTION,...")
    ] = "2:0.2,3:0.18,4:0.16",
    dup_n_grams: Annotated[
        str, typer.Option(help="repetition: share of repeated n-grams, N:FRACTION,...")
    ] = "5:0.15,6:0.14,7:0.13,8:0.12,9:0.11,10:0.1",
    max_symbol_word_ratio: Annotated[
        float, typer.Option(min=0, help="symbols: '#' per word, and ellipses per word.")
    ] = 0.1,
    on_error: OnErrorFlag = "fail",
    text_key: TextKey = "text",
    id_key: IdKey = "id",
) -> None:
    """Keep the documents that pass quality rules (thresholds of Gopher)."""
    for path in (output, rejects):
        check_json_output(path)
    top, dup = _limits("--top-n-grams", top_n_grams), _limits("--dup-n-grams", dup_n_grams)
    names = resolve_inputs(inputs)
    lean_process()
    from llmtools.data.filter import filter_documents
    from llmtools.data.quality import QualitySettings

    settings = QualitySettings(
        rules=tuple(name.strip() for name in rules.split(",") if name.strip()),
        min_doc_words=min_doc_words,
        max_doc_words=max_doc_words,
        dup_para_frac=dup_para_frac,
        dup_para_char_frac=dup_para_char_frac,
        dup_line_frac=dup_line_frac,
        dup_line_char_frac=dup_line_char_frac,
        top_n_grams=top,
        dup_n_grams=dup,
        max_symbol_word_ratio=max_symbol_word_ratio,
    )
    for name in settings.unused():
        terminal.warn(f"--{name.replace('_', '-')} has no effect: --rules leaves its rule out")
    if dry_run:
        from llmtools.plan.data import plan_filter

        show_plan(
            plan_filter(
                names,
                output,
                rejects=rejects,
                on_error=on_error,
                text_key=text_key,
                id_key=id_key,
                force=force,
            )
        )
        return
    counts = filter_documents(
        names,
        output,
        settings,
        rejects=rejects,
        on_error=on_error,
        annotate=annotate,
        text_key=text_key,
        id_key=id_key,
        force=force,
    )
    dropped = ", ".join(f"{name} {count:,}" for name, count in counts["dropped"].items())
    report(
        counts,
        f"filter: {counts['documents_kept']:,} of {counts['documents_in']:,} documents kept"
        f" (dropped: {dropped})",
    )
