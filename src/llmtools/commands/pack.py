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
        "llm tokenize crawl/ -t tokenizer.json | llm pack --seq-len 2048 -o train/",
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
        Literal["concat"],
        typer.Option("--strategy", help="concat: documents end to end, cut where a row is full."),
    ] = "concat",
    force: Force = False,
    dry_run: DryRun = False,
    on_error: OnErrorFlag = "fail",
    rejects: Rejects = None,
    text_key: TextKey = "text",
    id_key: IdKey = "id",
) -> None:
    """Pack documents or token frames into training rows; every token goes into exactly one row."""
    if output == STDIO:
        raise UsageError("packed rows are a directory; name it with -o DIR")
    check_json_output(rejects)
    names = resolve_inputs(inputs)
    lean_process()
    from llmtools.data.encode import EncodeSettings
    from llmtools.data.pack import PackSettings
    from llmtools.data.pack import pack as run
    from llmtools.tokenizer.load import load_tokenizer

    settings = PackSettings(
        seq_len=seq_len,
        strategy=strategy,
        encode=EncodeSettings(text_key=text_key, id_key=id_key),
    )
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
        f"pack: {totals['documents']:,} documents, {totals['tokens']:,} tokens in"
        f" {totals['rows']:,} rows, {totals['padding']:,} tokens of padding",
    )
