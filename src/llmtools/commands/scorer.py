"""`llm scorer train`: what `llm score` and `llm filter` judge documents by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmtools import terminal
from llmtools.commands.common import (
    DryRun,
    Force,
    Inputs,
    OnErrorFlag,
    Rejects,
    Seed,
    TextKey,
    check_json_output,
    command,
    make_app,
    report,
    resolve_inputs,
    show_plan,
)
from llmtools.commands.process import lean_process
from llmtools.errors import UsageError

app = make_app()
MEASURES = ("r2", "spearman", "accuracy", "auc")
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
        "llm scorer train rated.jsonl --kind classifier --label-key quality -o quality.bin",
        "llm scorer train rated.jsonl --kind regression --encoder model/ -o rating.safetensors",
    ],
)
def train(
    *,
    inputs: Inputs = None,
    output: Annotated[
        str, typer.Option("-o", "--output", help="The .safetensors, .arpa or .bin file to write.")
    ],
    kind: Annotated[
        Literal["ngram", "classifier", "regression"],
        typer.Option("--kind", help="A language model; a fastText classifier; on vectors."),
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
    label_key: Annotated[
        str,
        typer.Option(
            "--label-key", help="classifier, regression: the label's field, as metadata.quality."
        ),
    ] = "label",
    val_fraction: Annotated[
        float,
        typer.Option("--val-fraction", help="classifier, regression: held out, to judge it."),
    ] = 0.1,
    dim: Annotated[
        int, typer.Option("--dim", min=1, help="classifier: numbers for each word and n-gram.")
    ] = 16,
    word_ngrams: Annotated[
        int, typer.Option("--word-ngrams", min=1, help="classifier: words of the longest n-grams.")
    ] = 2,
    min_chars: Annotated[
        int, typer.Option("--min-chars", min=0, help="classifier: shortest n-gram of characters.")
    ] = 0,
    max_chars: Annotated[
        int, typer.Option("--max-chars", min=0, help="classifier: longest; 0 is none of them.")
    ] = 0,
    num_buckets: Annotated[
        int, typer.Option("--num-buckets", min=1, help="classifier: places for hashed n-grams.")
    ] = 200_000,
    max_words: Annotated[
        int, typer.Option("--max-words", min=0, help="classifier: most frequent words to know.")
    ] = 100_000,
    min_count: Annotated[
        int, typer.Option("--min-count", min=1, help="classifier: occurrences of such a word.")
    ] = 2,
    epochs: Annotated[
        int, typer.Option("--epochs", min=1, help="classifier: passes over the documents.")
    ] = 5,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="classifier: at first; it falls to 0.")
    ] = 1.0,
    vectors: Annotated[
        str | None,
        typer.Option("--vectors", help="regression: .npy or .safetensors, a row a document."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="regression: a model; its mean hidden states are vectors."),
    ] = None,
    link: Annotated[
        Literal["linear", "logistic"],
        typer.Option("--link", help="regression: ratings, or yes and no."),
    ] = "linear",
    l2: Annotated[
        float, typer.Option("--l2", min=0, help="regression: penalty on large weights.")
    ] = 0.01,
    seed: Seed = 1,
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
    shared: dict[str, Any] = {
        "rejects": rejects, "on_error": on_error, "text_key": text_key, "force": force,
    }  # fmt: skip
    labels = {"label_key": label_key, "val_fraction": val_fraction}
    if kind == "regression":
        fitting = {"link": link, "l2": l2, "seed": seed, **labels}
        _train_regression(names, output, vectors, encoder, fitting, shared, dry_run)
        return
    if kind == "classifier":
        training = {
            "dim": dim, "word_ngrams": word_ngrams, "min_chars": min_chars, "max_chars": max_chars,
            "buckets": num_buckets, "max_words": max_words, "min_count": min_count,
            "epochs": epochs, "learning_rate": learning_rate, "seed": seed,
        }  # fmt: skip
        _train_classifier(names, output, training, labels, shared, dry_run)
        return
    from llmtools.data.ngram_estimate import NGramSettings
    from llmtools.data.ngram_train import train_ngram_model

    settings = NGramSettings(order=order, normalize=normalize, prune=_counts("--prune", prune))
    if dry_run:
        from llmtools.plan.scorer import plan_scorer_train

        show_plan(plan_scorer_train(names, output, order=order, **shared))
        return
    counts = train_ngram_model(names, output, settings, held_out=held_out, **shared)
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


def _train_classifier(
    names: list[str],
    output: str,
    training: dict[str, Any],
    labels: dict[str, Any],
    shared: dict[str, Any],
    dry_run: bool,
) -> None:
    from llmtools.data.classifier import ClassifierTraining
    from llmtools.data.classifier_train import check_suffix, train_classifier_file

    settings = ClassifierTraining(**training)
    check_suffix(output)
    if dry_run:
        from llmtools.plan.scorer import plan_classifier_train

        rows = settings.buckets + settings.max_words
        show_plan(plan_classifier_train(names, output, rows * settings.dim, **shared))
        return
    counts = train_classifier_file(names, output, settings, **labels, **shared)
    judged = "nothing was held out to judge it"
    if counts["held_out"]:
        judged = (
            f"on {counts['held_out']:,} held out: accuracy {counts['accuracy']:.4f},"
            f" AUC {counts['auc']:.4f}"
        )
    report(
        counts,
        f"{output}: {len(counts['labels'])} labels, {counts['words']:,} words, from"
        f" {counts['documents']:,} documents; {judged}",
    )


def _train_regression(
    names: list[str],
    output: str,
    vectors: str | None,
    encoder: str | None,
    fitting: dict[str, Any],
    shared: dict[str, Any],
    dry_run: bool,
) -> None:
    from llmtools.data.regression_train import Source, check_arguments, train_regression_file

    source = Source(vectors=vectors, encoder=encoder)
    check_arguments(output, source, shared["on_error"])
    if dry_run:
        from llmtools.plan.scorer import plan_regression_train

        show_plan(plan_regression_train(names, output, vectors, encoder, **shared))
        return
    if encoder is not None:
        from llmtools.engine.embed import Embedder

        source = Source(encoder=encoder, embed=Embedder(Path(encoder)))
    counts = train_regression_file(names, output, source, **fitting, **shared)
    judged = "nothing was held out to judge it"
    if counts["held_out"]:
        found = [f"{key} {counts[key]:.4f}" for key in MEASURES if key in counts]
        judged = f"on {counts['held_out']:,} held out: {', '.join(found)}"
    report(
        counts,
        f"{output}: {counts['dim']:,} numbers a vector, from {counts['documents']:,} documents;"
        f" {judged}",
    )
