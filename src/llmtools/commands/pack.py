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
    lean_process,
    make_app,
    report,
    resolve_inputs,
    show_plan,
)
from llmtools.errors import UsageError
from llmtools.formats.stream import STDIO

app = make_app()


@command(
    app,
    "pack",
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
        typer.Option(
            "-t", "--tokenizer", help="For documents: tokenizer.json, model directory or GGUF."
        ),
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
    if seed is not None and not shuffle:
        raise UsageError("--seed has no effect without --shuffle")
    if memory is not None and not shuffle and epochs == 1:
        raise UsageError("--memory has no effect without --shuffle or --epochs")
    check_json_output(rejects)
    names = resolve_inputs(inputs)
    lean_process()
    from llmtools.data.encode import EncodeSettings
    from llmtools.data.pack import BUFFER_TOKENS, MEMORY, PackSettings, check_settings
    from llmtools.data.pack import pack as run
    from llmtools.tokenizer.load import load_tokenizer

    settings = PackSettings(
        seq_len=seq_len,
        strategy=strategy,
        long_docs=long_docs or "fragment",
        buffer=BUFFER_TOKENS if buffer is None else byte_size("--buffer", buffer),
        shuffle=shuffle,
        seed=seed or 0,
        epochs=epochs,
        memory=MEMORY if memory is None else byte_size("--memory", memory),
        encode=EncodeSettings(add_bos=strategy == "bos-bestfit", text_key=text_key, id_key=id_key),
    )
    check_settings(settings)
    loaded = None if tokenizer is None else load_tokenizer(tokenizer)
    if dry_run:
        from llmtools.plan.data import plan_pack

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
