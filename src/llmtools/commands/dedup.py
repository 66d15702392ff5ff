"""`llm dedup`: remove duplicate documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

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
    Seed,
    Shard,
    TextKey,
    WorkDir,
    check_json_output,
    command,
    make_app,
    report,
    resolve_inputs,
    show_plan,
)
from llmtools.commands.dedup_methods import (
    Method,
    Normal,
    check_flags,
    is_streamed,
    run_streamed,
    settings_from,
)
from llmtools.commands.process import lean_process
from llmtools.errors import UsageError
from llmtools.formats.input_names import STDIO

if TYPE_CHECKING:
    from llmtools.data.dedup_explain import Explanation

app = make_app()


@command(
    app,
    "dedup",
    has_units=True,
    examples=[
        "llm dedup crawl.jsonl.zst -o unique.jsonl.zst",
        "zstdcat crawl/*.zst | llm dedup --rejects copies.jsonl | llm tokenize -t tokenizer.json",
        "llm dedup new.jsonl --index old-index --keep longest -o unique.jsonl",
        "llm dedup crawl.jsonl --method substring --min-bytes 100 -o shorter.jsonl",
    ],
)
def dedup(
    inputs: Inputs = None,
    output: Output = STDIO,
    force: Force = False,
    dry_run: DryRun = False,
    method: Annotated[
        Method,
        typer.Option(help="What is compared; line to sentence and substring cut inside texts."),
    ] = "minhash",
    keep: Annotated[
        str,
        typer.Option(help="Which copy stays: first, longest, newest or metadata.FIELD (largest)."),
    ] = "first",
    verify_jaccard: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="All copies must be so similar to each other, 0.8 say.  [default: unchecked]",
            show_default=False,
        ),
    ] = 0.0,
    cluster_ids: Annotated[
        bool,
        typer.Option(
            "--cluster-ids",
            help="Add metadata.cluster (the survivor's id) and metadata.cluster_size.",
        ),
    ] = False,
    rejects: Rejects = None,
    index: Annotated[
        list[str] | None,
        typer.Option("--index", help="Also drop copies of what this index holds; repeatable."),
    ] = None,
    create_index: Annotated[
        str | None, typer.Option(help="Write an index of these documents, a directory.")
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Only say what this document is a copy of, and why."),
    ] = None,
    preset: Annotated[
        Literal["default", "fineweb", "olmo3", "rpv2", "curator"],
        typer.Option(help="N-grams and buckets of a published corpus or tool."),
    ] = "default",
    dialect: Annotated[
        Literal["llmtools", "datatrove"],
        typer.Option(help="Hash functions: fast ones, or datatrove's bit for bit."),
    ] = "llmtools",
    n_grams: Annotated[
        int | None, typer.Option(min=1, help="Words per shingle.  [default: 5]")
    ] = None,
    char_n_grams: Annotated[
        int | None, typer.Option(min=1, help="Shingles of characters, so many, instead of words.")
    ] = None,
    num_buckets: Annotated[
        int | None, typer.Option(min=1, help="LSH buckets per document.  [default: 18]")
    ] = None,
    hashes_per_bucket: Annotated[
        int | None, typer.Option(min=1, help="Hashes that must agree in a bucket.  [default: 8]")
    ] = None,
    seed: Seed = 1,
    max_distance: Annotated[
        int, typer.Option(min=0, help="simhash: bits of 64 in which copies may differ.")
    ] = 3,
    vectors: Annotated[
        str | None, typer.Option(help="semantic: a row for each document, .npy or .safetensors.")
    ] = None,
    similarity: Annotated[float, typer.Option(help="semantic: the cosine of copies.")] = 0.95,
    num_clusters: Annotated[
        int, typer.Option(min=0, help="semantic: clusters of k-means; 0 is sqrt(documents).")
    ] = 0,
    min_bytes: Annotated[
        int, typer.Option(min=1, help="substring: repeated bytes, at least so many.")
    ] = 100,
    normalize: Annotated[
        Normal, typer.Option(help="line, paragraph, sentence: what is compared.")
    ] = "ccnet",
    num_sentences: Annotated[
        int, typer.Option(min=1, help="sentence: sentences in a row that are compared.")
    ] = 3,
    min_chars: Annotated[
        int, typer.Option(min=0, help="Drop what is cut to fewer characters.")
    ] = 1,
    min_doc_words: Annotated[
        int | None,
        typer.Option(min=0, help="And to fewer words.  [default: 50 for sentence, else 0]"),
    ] = None,
    min_doc_sentences: Annotated[
        int | None,
        typer.Option(min=0, help="And to fewer sentences.  [default: 3 for sentence, else 0]"),
    ] = None,
    annotate: Annotated[
        bool,
        typer.Option("--annotate", help="Cut nothing; say what in metadata.duplicate_spans."),
    ] = False,
    zstd_level: Annotated[
        int, typer.Option(min=1, max=19, help="exact and cuts: level of an output in .zst.")
    ] = 3,
    memory: Annotated[
        str | None,
        typer.Option(help="Spill keys to TMPDIR beyond this, as 4G.  [default: no limit]"),
    ] = None,
    phase: Annotated[
        Literal["sign", "match", "cluster", "apply"] | None,
        typer.Option(help="Only one of four phases, in --work-dir, for --shard of the input."),
    ] = None,
    work_dir: WorkDir = None,
    shard: Shard = None,
    on_error: OnErrorFlag = "fail",
    text_key: TextKey = "text",
    id_key: IdKey = "id",
) -> None:
    """Remove exact and near duplicates (MinHash-LSH); one of each cluster stays."""
    values = dict(locals())
    check_flags(dedup, values)
    writes_documents = explain is None and phase in (None, "apply")
    for path in (output, rejects):
        check_json_output(path if writes_documents else None)
    names = resolve_inputs(inputs)
    lean_process()
    if is_streamed(values) and not dry_run:
        run_streamed(names, values)
        return
    from llmtools.data.dedup import dedup as run

    settings = settings_from(values)
    if phase is not None:
        from llmtools.commands.dedup_phase import run_phase

        run_phase(names, settings, values)
        return
    if explain is not None:
        if output != STDIO or rejects is not None or create_index is not None:
            raise UsageError("--explain writes nothing; leave -o, --rejects and --create-index out")
        from llmtools.data.dedup_explain import explain as look

        _show(look(names, explain, settings, indexes=index or (), on_error=on_error))
        return
    if dry_run:
        from llmtools.plan.documents import plan_dedup

        show_plan(
            plan_dedup(
                names,
                output,
                method=method,
                num_buckets=settings.minhash.num_buckets,
                keeps_ids=cluster_ids or rejects is not None,
                limit=settings.memory,
                rejects=rejects,
                on_error=on_error,
                text_key=text_key,
                id_key=id_key,
                force=force,
            )
        )
        return
    counts = run(
        names,
        output,
        settings,
        rejects=rejects,
        indexes=tuple(index or ()),
        create_index=create_index,
        on_error=on_error,
        zstd_level=zstd_level,
        force=force,
    )
    report(
        counts,
        f"dedup: {counts['documents_kept']:,} of {counts['documents_in']:,} documents kept, "
        f"dropped {counts['dropped_exact']:,} exact and {counts['dropped_near']:,} near copies",
    )


def _show(found: Explanation) -> None:
    if terminal.display().json:
        terminal.emit_json(found.as_dict())
        return
    if found.is_kept:
        copies = found.cluster_size - 1
        terminal.emit_text(f"{found.id}: kept, with {copies:,} copies of it dropped\n")
        return
    kind = "the same text as" if found.is_exact else "near"
    if found.index is not None:
        terminal.emit_text(
            f"{found.id}: dropped, {kind} {found.kept} of the index {found.index}, which holds no"
            " texts\n"
        )
        return
    lines = [
        f"{found.id}: dropped, {kind} {found.kept}",
        f"Jaccard {found.jaccard:.3f}, {found.shared_shingles:,} shared shingles, a cluster of"
        f" {found.cluster_size:,}",
        *(f"  {gram}" for gram in found.shared),
    ]
    terminal.emit_text("\n".join(lines) + "\n")
