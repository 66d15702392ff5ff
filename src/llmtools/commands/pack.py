"""`llm pack`: documents or token frames to training rows."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from llmtools.commands.common import (
    DryRun,
    Force,
    IdKey,
    Inputs,
    OnErrorFlag,
    Rejects,
    TextKey,
    byte_size,
    check_json_output,
    command,
    make_app,
    report,
    resolve_inputs,
    show_plan,
)
from llmtools.commands.process import lean_process
from llmtools.errors import UsageError
from llmtools.formats.input_names import STDIO
from llmtools.formats.token_forms import DtypeName

app = make_app()


@command(
    app,
    "pack",
    has_units=True,
    examples=[
        "llm pack docs.jsonl.zst -t tokenizer.json --seq-len 1024 -o train/",
        "llm tokenize crawl/ -t tokenizer.json | llm pack --seq-len 2048 --strategy best-fit -o t/",
    ],
)
def pack(
    *,
    inputs: Inputs = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("-t", "--tokenizer", help="For documents: what llm tokenize takes."),
    ] = None,
    seq_len: Annotated[
        int,
        typer.Option("--seq-len", min=1, help="Positions a row trains; it holds one more token."),
    ],
    output: Annotated[str, typer.Option("-o", "--output", help="The directory to write.")],
    strategy: Annotated[
        Literal["concat", "best-fit", "bos-bestfit"],
        typer.Option(
            "--strategy",
            help="concat: end to end, cut where a row is full. best-fit: whole where they fit, rows"
            " padded. bos-bestfit: each row begins with BOS and is full, the rest cropped.",
        ),
    ] = "concat",
    long_docs: Annotated[
        Literal["fragment", "truncate"] | None,
        typer.Option(
            "--long-docs",
            help="best-fit, of documents longer than a row: all parts, or the first.  "
            "[default: fragment]",
        ),
    ] = None,
    buffer: Annotated[
        str | None,
        typer.Option(
            "--buffer", help="Tokens of documents that best fits are found among.  [default: 8M]"
        ),
    ] = None,
    fim_rate: Annotated[
        float,
        typer.Option(
            "--fim-rate", min=0, max=1, help="Share of documents to fill in the middle; needs -t."
        ),
    ] = 0.0,
    fim_spm_rate: Annotated[
        float | None,
        typer.Option(
            "--fim-spm-rate",
            min=0,
            max=1,
            help="Share of those with the suffix first.  [default: 0.5]",
        ),
    ] = None,
    fim_tokens: Annotated[
        str | None,
        typer.Option(
            "--fim-tokens",
            metavar="PRE,SUF,MID",
            help="Names of those tokens.  [default: those of known code models]",
        ),
    ] = None,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="Documents in an order that --seed decides.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of everything random.  [default: 0]")
    ] = None,
    epochs: Annotated[
        int,
        typer.Option("--epochs", min=1, help="Pack each document so often."),
    ] = 1,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            help="What --shuffle and --epochs may hold; more waits on disk.  [default: 512M]",
        ),
    ] = None,
    format: Annotated[
        Literal["packed", "raw", "npy", "megatron"],
        typer.Option(
            "--format",
            help="packed: shards for llm pretrain. raw, npy, megatron: files of other programs.",
        ),
    ] = "packed",
    dtype: Annotated[
        DtypeName,
        typer.Option("--dtype", help="Of raw, npy and megatron ids; auto: by the vocabulary."),
    ] = "auto",
    force: Force = False,
    dry_run: DryRun = False,
    on_error: OnErrorFlag = "fail",
    rejects: Rejects = None,
    text_key: TextKey = "text",
    id_key: IdKey = "id",
) -> None:
    """Pack documents or token frames into training rows, every row with what it is made of."""
    if output == STDIO:
        raise UsageError("packed rows are a directory; name it with -o DIR")
    if long_docs is not None and strategy != "best-fit":
        raise UsageError(f"--long-docs has no effect with --strategy {strategy}")
    if buffer is not None and strategy == "concat":
        raise UsageError("--buffer has no effect with --strategy concat")
    if seed is not None and not shuffle and not fim_rate:
        raise UsageError("--seed has no effect without --shuffle or --fim-rate")
    if not fim_rate:
        for name, value in (("--fim-spm-rate", fim_spm_rate), ("--fim-tokens", fim_tokens)):
            if value is not None:
                raise UsageError(f"{name} has no effect without --fim-rate")
    fim_names = None if fim_tokens is None else tuple(fim_tokens.split(","))
    if fim_names is not None and len(fim_names) != 3:
        raise UsageError(f"--fim-tokens {fim_tokens!r}: write three names, PREFIX,SUFFIX,MIDDLE")
    if memory is not None and not shuffle and epochs == 1:
        raise UsageError("--memory has no effect without --shuffle or --epochs")
    check_json_output(rejects)
    names = resolve_inputs(inputs)
    lean_process()
    from llmtools.data.encode import EncodeSettings
    from llmtools.data.pack import BUFFER_TOKENS, MEMORY, PackSettings, check_settings
    from llmtools.data.pack import pack as run
    from llmtools.data.pack_fim import FimSettings
    from llmtools.tokenizer.load import load_tokenizer_once

    settings = PackSettings(
        seq_len=seq_len,
        strategy=strategy,
        long_docs=long_docs or "fragment",
        buffer=BUFFER_TOKENS if buffer is None else byte_size("--buffer", buffer),
        fim=FimSettings(
            rate=fim_rate,
            spm_rate=0.5 if fim_spm_rate is None else fim_spm_rate,
            tokens=fim_names,
        ),
        format=format,
        dtype=dtype,
        shuffle=shuffle,
        seed=seed or 0,
        epochs=epochs,
        memory=MEMORY if memory is None else byte_size("--memory", memory),
        encode=EncodeSettings(add_bos=strategy == "bos-bestfit", text_key=text_key, id_key=id_key),
    )
    check_settings(settings)
    loaded = None if tokenizer is None else load_tokenizer_once(tokenizer)
    if dry_run:
        from llmtools.plan.tokens import plan_pack

        show_plan(
            plan_pack(
                names,
                output,
                settings,
                tokenizer=loaded,
                rejects=rejects,
                on_error=on_error,
                force=force,
            )
        )
        return
    totals = run(
        names,
        output,
        settings,
        tokenizer=loaded,
        rejects=rejects,
        on_error=on_error,
        force=force,
    )
    report(
        totals,
        f"pack: {totals['documents']:,} documents, {totals['tokens']:,} tokens"
        + (f" {epochs} times" if epochs > 1 else "")
        + f" in {totals['rows']:,} rows, {totals['utilisation']:.2%} used"
        f" ({totals['padding']:,} tokens of padding), {totals['cuts']:,} cuts"
        + (f", {totals['cropped']:,} tokens cropped" if totals["cropped"] else ""),
    )
