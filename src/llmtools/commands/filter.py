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
    make_app,
    report,
    resolve_inputs,
    show_plan,
)
from llmtools.commands.process import lean_process
from llmtools.commands.rule_flags import given_values, with_rule_flags
from llmtools.data.rules.recipes import RECIPES
from llmtools.data.rules.settings import Conventions, Dialect, Words
from llmtools.data.rules.table import (
    DEFAULT_RULES,
    KINDS,
    FilterSettings,
    choose,
    describe,
    flags_of,
    follow,
    unused,
)
from llmtools.errors import UsageError, did_you_mean
from llmtools.formats.input_names import STDIO

app = make_app()


def _choose(
    rules: str | None,
    recipe: str | None,
    given: dict[str, Any],
    dialect: Dialect | None,
    words: Words | None,
) -> FilterSettings:
    """The rules of a command line; says which flags and steps have no effect."""
    if recipe is None:
        names = None
        if rules is not None:
            names = tuple(name.strip() for name in rules.split(",") if name.strip())
        conventions = Conventions(dialect=dialect or "datatrove", words=words or "fast")
        settings = choose(names, given, conventions)
        place = "--rules"
    else:
        place = f"--recipe {recipe}"
        if rules is not None:
            raise UsageError("--recipe is a list of rules; leave --rules out, or the recipe")
        if recipe not in RECIPES:
            near = did_you_mean(recipe, RECIPES)
            raise UsageError(f"no recipe {recipe!r}{near} (recipes: {', '.join(RECIPES)})")
        own = RECIPES[recipe].conventions
        conventions = Conventions(dialect=dialect or own.dialect, words=words or own.words)
        settings, missing = follow(RECIPES[recipe], given, conventions)
        for step in missing:
            terminal.warn(f"{place}: its step {step.rule} is left out without {flags_of(step)}")
    for name in unused(settings, given):
        terminal.warn(f"--{name.replace('_', '-')} has no effect: {place} leaves its rule out")
    return settings


@command(
    app,
    "filter",
    has_units=True,
    examples=[
        "llm filter crawl.jsonl.zst --rejects dropped.jsonl -o kept.jsonl.zst",
        "llm filter crawl.jsonl.zst --recipe fineweb --lid-model lid.176.ftz -o kept.jsonl.zst",
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
    recipe: Annotated[
        str | None,
        typer.Option(
            help=f"A known list of rules and thresholds: {', '.join(RECIPES)}. Flags override."
        ),
    ] = None,
    show_recipe: Annotated[
        bool, typer.Option("--show-recipe", help="Print the rules and thresholds, and end.")
    ] = False,
    dialect: Annotated[
        Dialect | None,
        typer.Option(
            help="Whose definitions, where they differ."
            "  [default: that of the recipe, else datatrove]"
        ),
    ] = None,
    words: Annotated[
        Words | None,
        typer.Option(
            help="Cut words at white space, or as Unicode says (UAX #29)."
            "  [default: those of the recipe, else fast]"
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
    settings = _choose(rules, recipe, given, dialect, words)
    if show_recipe:
        terminal.emit_text("\n".join(describe(settings)) + "\n")
        return
    paths = resolve_inputs(inputs)
    lean_process()
    if dry_run:
        from llmtools.plan.documents import plan_filter

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
