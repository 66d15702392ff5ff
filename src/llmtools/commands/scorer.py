"""`llm scorer train`: what `llm score` and `llm filter` judge documents by."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from llmtools import terminal
from llmtools.commands.common import (
    DryRun,
    Force,
    Inputs,
    OnErrorFlag,
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

app = make_app()
apps = {"train": app}


def _counts(option: str, given: str) -> tuple[int, ...]:
    """'0,0,1' as numbers; an empty string is none."""
    try:
        found = tuple(int(item) for item in given.split(",") if item)
    except ValueError as fault:
        raise UsageError(f"{option} {given!r}: write counts, as 0,0,1") from fault
    return found


@command(
    app,
    "scorer",
    verb="train",
    examples=[
        "llm scorer train wiki.jsonl.zst --held-out crawl.jsonl.zst -o lm.safetensors",
        "llm scorer train wiki.jsonl.zst --order 3 --prune 0,0,1 -o lm.arpa",
    ],
)
def train(
    *,
    inputs: Inputs = None,
    output: Annotated[
        str, typer.Option("-o", "--output", help="The .safetensors or .arpa file to write.")
    ],
    kind: Annotated[
        Literal["ngram"], typer.Option("--kind", help="ngram: a language model, for perplexity.")
    ] = "ngram",
    order: Annotated[
        int, typer.Option("--order", min=1, max=16, help="ngram: words of the longest n-grams.")
    ] = 5,
    normalize: Annotated[
        Literal["ccnet", "words", "none"],
        typer.Option("--normalize", help="ngram: cc_net's, also without punctuation, or as it is."),
    ] = "ccnet",
    prune: Annotated[
        str, typer.Option("--prune", help="ngram: drop n-grams this rare, by order, as 0,0,1.")
    ] = "",
    held_out: Annotated[
        list[str] | None,
        typer.Option("--held-out", help="ngram: take the percentiles from these documents."),
    ] = None,
    force: Force = False,
    dry_run: DryRun = False,
    on_error: OnErrorFlag = "fail",
    rejects: Rejects = None,
    text_key: TextKey = "text",
) -> None:
    """Train a scorer; the same documents give the same one."""
    names = resolve_inputs(inputs)
    if output == "-":
        raise UsageError("a scorer is a file; name it with -o lm.safetensors")
    check_json_output(rejects)
    lean_process()
    from llmtools.data.ngram_estimate import NGramSettings
    from llmtools.data.ngram_train import train_ngram_model

    settings = NGramSettings(order=order, normalize=normalize, prune=_counts("--prune", prune))
    if dry_run:
        from llmtools.plan.data import plan_scorer_train

        show_plan(
            plan_scorer_train(
                names,
                output,
                rejects=rejects,
                on_error=on_error,
                text_key=text_key,
                order=order,
                force=force,
            )
        )
        return
    counts = train_ngram_model(
        names,
        output,
        settings,
        held_out=held_out,
        rejects=rejects,
        on_error=on_error,
        text_key=text_key,
        force=force,
    )
    if counts["fallback_orders"]:
        listed = ", ".join(map(str, counts["fallback_orders"]))
        terminal.warn(
            f"too few n-grams to estimate the discounts of order {listed};"
            " 0.5, 1 and 1.5 were taken (more text helps)"
        )
    report(
        counts,
        f"{output}: {sum(counts['ngrams']):,} n-grams up to order {len(counts['ngrams'])},"
        f" {counts['words']:,} words, from {counts['documents']:,} documents",
    )
