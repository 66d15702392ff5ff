"""`llm tokenize`: documents to token ids."""

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
    make_app,
    report,
    resolve_inputs,
    show_plan,
)
from llmtools.commands.process import lean_process
from llmtools.formats.input_names import STDIO
from llmtools.formats.token_forms import DtypeName, TokenForm, TokenFormat

app = make_app()


@command(
    app,
    "tokenize",
    has_units=True,
    examples=[
        "llm tokenize docs.jsonl.zst -t tokenizer.json -o tokens/",
        "llm tokenize docs.jsonl -t tokenizer.json --format megatron -o megatron/",
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
    format: Annotated[
        TokenFormat,
        typer.Option(
            "--format",
            help="What is written: frames, as the other commands read; jsonl, records of ids; raw, "
            "ids alone; npy, numpy's file of them; megatron, a directory with .bin and .idx.",
        ),
    ] = "frames",
    dtype: Annotated[
        DtypeName,
        typer.Option("--dtype", help="Of raw, npy and megatron ids; auto: by the vocabulary."),
    ] = "auto",
    no_eos: Annotated[
        bool, typer.Option("--no-eos", help="Do not end each document with EOS.")
    ] = False,
    bos: Annotated[bool, typer.Option("--bos", help="Begin each document with BOS.")] = False,
    parse_special: Annotated[
        bool, typer.Option("--parse-special", help="Special tokens inside a text are tokens.")
    ] = False,
    check: Annotated[
        int,
        typer.Option(
            "--check",
            metavar="N",
            min=0,
            help="Compare the ids of the first N documents (of each unit) with the tokenizers "
            "library's; a difference ends the run.",
        ),
    ] = 0,
    force: Force = False,
    dry_run: DryRun = False,
    on_error: OnErrorFlag = "fail",
    rejects: Rejects = None,
    text_key: TextKey = "text",
    id_key: IdKey = "id",
) -> None:
    """Encode documents as token ids, EOS after each where the vocabulary has one."""
    form = TokenForm(name=format, dtype=dtype)
    form.check_output(output)
    form.check_name(output)
    for path in (output, rejects):
        check_json_output(path)
    names = resolve_inputs(inputs)
    lean_process()
    from llmtools.data.encode import EncodeSettings
    from llmtools.data.encode import tokenize as run
    from llmtools.tokenizer.load import load_tokenizer_once

    settings = EncodeSettings(
        add_bos=bos,
        add_eos=not no_eos,
        parse_special=parse_special,
        text_key=text_key,
        id_key=id_key,
        check=check,
    )
    if dry_run:
        from llmtools.plan.tokens import plan_tokenize

        show_plan(
            plan_tokenize(
                names,
                output,
                load_tokenizer_once(tokenizer),
                settings,
                form=form,
                rejects=rejects,
                on_error=on_error,
                force=force,
            )
        )
        return
    counts = run(
        names,
        output,
        load_tokenizer_once(tokenizer),
        settings,
        form=form,
        rejects=rejects,
        on_error=on_error,
        force=force,
    )
    ratio = counts["text_bytes"] / max(1, counts["tokens"])
    report(
        counts,
        f"tokenize: {counts['documents']:,} documents, {counts['tokens']:,} tokens,"
        f" {ratio:.2f} bytes of text each",
    )
