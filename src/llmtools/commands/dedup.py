"""`llm dedup`: near and exact duplicates out, the first of each cluster kept."""

from __future__ import annotations

from typing import Annotated

import typer

from llmtools.commands.common import (
    DryRun,
    Force,
    IdKey,
    Inputs,
    OnErrorFlag,
    Output,
    Rejects,
    Seed,
    TextKey,
    check_json_output,
    command,
    lean_process,
    make_app,
    report,
    resolve_inputs,
    show_plan,
)
from llmtools.formats.stream import STDIO

app = make_app()


@command(
    app,
    "dedup",
    examples=[
        "llm dedup crawl.jsonl.zst -o unique.jsonl.zst",
        "zstdcat crawl/*.zst | llm dedup --rejects copies.jsonl | llm tokenize -t tokenizer.json",
    ],
)
def dedup(
    inputs: Inputs = None,
    output: Output = STDIO,
    force: Force = False,
    dry_run: DryRun = False,
    cluster_ids: Annotated[
        bool,
        typer.Option(
            "--cluster-ids",
            help="Add metadata.cluster (the survivor's id) and metadata.cluster_size.",
        ),
    ] = False,
    rejects: Rejects = None,
    n_grams: Annotated[int, typer.Option(min=1, help="Words per shingle.")] = 5,
    num_buckets: Annotated[int, typer.Option(min=1, help="LSH buckets per document.")] = 14,
    hashes_per_bucket: Annotated[
        int, typer.Option(min=1, help="Hashes that must agree in a bucket.")
    ] = 8,
    seed: Seed = 1,
    on_error: OnErrorFlag = "fail",
    text_key: TextKey = "text",
    id_key: IdKey = "id",
) -> None:
    """Remove exact and near duplicates (MinHash-LSH); the first of each cluster stays."""
    for path in (output, rejects):
        check_json_output(path)
    names = resolve_inputs(inputs)
    lean_process()
    from llmtools.data.dedup import DedupSettings
    from llmtools.data.dedup import dedup as run
    from llmtools.data.minhash import MinHashSettings

    settings = DedupSettings(
        minhash=MinHashSettings(
            n_grams=n_grams,
            num_buckets=num_buckets,
            hashes_per_bucket=hashes_per_bucket,
            seed=seed,
        ),
        cluster_ids=cluster_ids,
        text_key=text_key,
        id_key=id_key,
    )
    if dry_run:
        from llmtools.plan.data import plan_dedup

        show_plan(
            plan_dedup(
                names,
                output,
                num_buckets=num_buckets,
                keeps_ids=cluster_ids or rejects is not None,
                rejects=rejects,
                on_error=on_error,
                text_key=text_key,
                id_key=id_key,
                force=force,
            )
        )
        return
    counts = run(names, output, settings, rejects=rejects, on_error=on_error, force=force)
    report(
        counts,
        f"dedup: {counts['documents_kept']:,} of {counts['documents_in']:,} documents kept, "
        f"dropped {counts['dropped_exact']:,} exact and {counts['dropped_near']:,} near copies",
    )
