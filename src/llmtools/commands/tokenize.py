"""`llm tokenize`: documents to token frames."""

from __future__ import annotations

from typing import Annotated

import typer

from llmtools.commands.common import (
    DryRun,
    Force,
    IdKey,
    Inputs,
    OnErrorFlag,
    Rejects,
    TextKey,
    TokenizerPath,
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
    "tokenize",
    has_units=True,
    examples=[
        "llm tokenize docs.jsonl.zst -t tokenizer.json -o tokens/",
        "llm dedup crawl/ | llm tokenize -t model.gguf | llm pack --seq-len 1024 -o train/",
    ],
)
def tokenize(
    *,
    inputs: Inputs = None,
    tokenizer: TokenizerPath,
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", help="A directory, a .safetensors file of frames, or - for stdout."
        ),
    ] = STDIO,
    no_eos: Annotated[
        bool, typer.Option("--no-eos", help="Do not end each document with EOS.")
    ] = False,
    bos: Annotated[bool, typer.Option("--bos", help="Begin each document with BOS.")] = False,
    parse_special: Annotated[
        bool, typer.Option("--parse-special", help="Special tokens inside a text are tokens.")
    ] = False,
    force: Force = False,
    dry_run: DryRun = False,
    on_error: OnErrorFlag = "fail",
    rejects: Rejects = None,
    text_key: TextKey = "text",
    id_key: IdKey = "id",
) -> None:
    """Encode documents as token frames, EOS after each where the vocabulary has one."""
    for path in (output, rejects):
        check_json_output(path)
    names = resolve_inputs(inputs)
    lean_process()
    from llmtools.data.encode import EncodeSettings
    from llmtools.data.encode import tokenize as run
    from llmtools.tokenizer.load import load_tokenizer

    settings = EncodeSettings(
        add_bos=bos,
        add_eos=not no_eos,
        parse_special=parse_special,
        text_key=text_key,
        id_key=id_key,
    )
    if dry_run:
        from llmtools.plan.data import plan_tokenize

        show_plan(
            plan_tokenize(
                names,
                output,
                load_tokenizer(tokenizer),
                settings,
                rejects=rejects,
                on_error=on_error,
                force=force,
            )
        )
        return
    counts = run(
        names,
        output,
        load_tokenizer(tokenizer),
        settings,
        rejects=rejects,
        on_error=on_error,
        force=force,
    )
    report(counts, f"tokenize: {counts['documents']:,} documents, {counts['tokens']:,} tokens")
