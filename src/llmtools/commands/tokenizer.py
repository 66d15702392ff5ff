"""`llm tokenizer train`: a byte-level BPE vocabulary from documents."""

from __future__ import annotations

from collections.abc import Iterator
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
    make_app,
    report,
    resolve_inputs,
    show_plan,
)
from llmtools.errors import UsageError
from llmtools.formats.stream import claim_outputs, open_output

app = make_app()
apps = {"train": app}


@command(
    app,
    "tokenizer",
    verb="train",
    examples=[
        "llm tokenizer train docs.jsonl.zst --vocab-size 32000 -o tokenizer.json",
        "llm dedup crawl/ | llm tokenizer train --vocab-size 8192 --pattern gpt4 -o tokenizer.json",
    ],
)
def train(
    *,
    inputs: Inputs = None,
    vocab_size: Annotated[
        int, typer.Option("--vocab-size", help="Tokens in all: bytes, special tokens, merges.")
    ],
    output: Annotated[str, typer.Option("-o", "--output", help="The tokenizer.json to write.")],
    pattern: Annotated[
        Literal["gpt2", "gpt4", "llama3"],
        typer.Option("--pattern", help="How text is cut into words (llama3's rule is gpt4's)."),
    ] = "gpt2",
    special_tokens: Annotated[
        str, typer.Option("--special-tokens", help="Comma-separated, first ids first.")
    ] = "<|endoftext|>,<|im_start|>,<|im_end|>",
    force: Force = False,
    dry_run: DryRun = False,
    on_error: OnErrorFlag = "fail",
    rejects: Rejects = None,
    text_key: TextKey = "text",
) -> None:
    """Train a byte-level BPE tokenizer; the same documents give the same tokenizer."""
    names = resolve_inputs(inputs)
    if output == "-":
        raise UsageError("a tokenizer is a file; name it with -o tokenizer.json")
    check_json_output(rejects)
    from llmtools.formats.document import read_documents
    from llmtools.formats.manifest import Recorder
    from llmtools.formats.skips import open_skips
    from llmtools.tokenizer.train import check_vocab_size, train_tokenizer

    specials = special_tokens.split(",") if special_tokens else []
    check_vocab_size(vocab_size, specials)
    if dry_run:
        from llmtools.plan.data import plan_tokenizer_train

        show_plan(
            plan_tokenizer_train(
                names,
                output,
                rejects=rejects,
                on_error=on_error,
                text_key=text_key,
                vocab_size=vocab_size,
                force=force,
            )
        )
        return
    settings = {"vocab_size": vocab_size, "pattern": pattern, "special_tokens": specials}
    recorder = Recorder("tokenizer train", settings)
    with (
        claim_outputs([output], force=force, is_directory=False),
        open_skips(output, rejects, on_error, force=force) as skips,
    ):
        with terminal.progress("tokenizer train", unit="doc") as bar:

            def texts() -> Iterator[str]:
                documents = read_documents(
                    names, text_key=text_key, on_read=recorder.read, skips=skips
                )
                for document in documents:
                    bar.update()
                    yield document.text

            trained = train_tokenizer(texts(), vocab_size, pattern=pattern, special_tokens=specials)
        skips.record(recorder)
        with open_output(output, force=force, compress=False) as out:
            out.write(trained.to_json().encode())
    recorder.count(documents=bar.count, vocab_size=trained.vocab_size, identity=trained.identity)
    if trained.vocab_size < vocab_size:
        terminal.warn(
            f"only {trained.vocab_size} of {vocab_size} tokens: the documents hold no more pairs"
        )
    recorder.wrote(out)
    recorder.write_beside(output)
    report(recorder.counts, f"{output}: {trained.vocab_size:,} tokens from {bar.count:,} documents")
