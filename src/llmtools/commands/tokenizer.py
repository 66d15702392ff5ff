"""`llm tokenizer train`: a vocabulary from documents; the noun's other verbs lie beside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
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
    byte_size,
    check_json_output,
    command,
    make_app,
    report,
    resolve_inputs,
    show_plan,
)
from llmtools.commands.process import lean_process
from llmtools.commands.tokenizer_compare import app as compare
from llmtools.commands.tokenizer_extend import app as extend
from llmtools.errors import UsageError
from llmtools.formats.output import claim_outputs, open_output

# Text of each language and source that a report encodes, about.
SAMPLE_BYTES = 1 << 18

app = make_app()
apps = {"train": app, "extend": extend, "compare": compare}


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
        int, typer.Option("--vocab-size", help="Tokens in all, bytes and special tokens included.")
    ],
    output: Annotated[str, typer.Option("-o", "--output", help="The tokenizer.json to write.")],
    model: Annotated[
        Literal["bpe", "wordpiece", "unigram", "word", "char"],
        typer.Option("--model", help="bpe is byte-level: any text comes back unchanged."),
    ] = "bpe",
    pattern: Annotated[
        Literal["gpt2", "gpt4", "llama3", "qwen2", "smollm"],
        typer.Option(
            "--pattern",
            help="bpe: how text is cut into words (llama3 is gpt4's rule; qwen2 has each digit"
            " alone and NFC; smollm is gpt2's with each digit alone).",
        ),
    ] = "gpt2",
    special_tokens: Annotated[
        str | None,
        typer.Option(
            "--special-tokens",
            help="Comma-separated, first ids first; '' for none.  [default: the model's usual"
            " ones, for bpe <|endoftext|>,<|im_start|>,<|im_end|>]",
        ),
    ] = None,
    min_frequency: Annotated[
        int,
        typer.Option("--min-frequency", min=0, help="How often a pair, or a word, must occur."),
    ] = 0,
    export: Annotated[
        Literal["none", "tiktoken", "gguf"],
        typer.Option(
            "--export",
            help="bpe: also write tiktoken's ranks, or a GGUF file of the vocabulary, beside it.",
        ),
    ] = "none",
    report_to: Annotated[
        str | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write tokens a word and bytes a token by language and source, as JSON.",
        ),
    ] = None,
    memory: Annotated[
        str,
        typer.Option(
            "--memory",
            help="For words and training; what is more goes to disk, the rarest words are left"
            " out of training where that does not fit.",
        ),
    ] = "2G",
    force: Force = False,
    dry_run: DryRun = False,
    on_error: OnErrorFlag = "fail",
    rejects: Rejects = None,
    text_key: TextKey = "text",
) -> None:
    """Train a tokenizer; the same documents, in any order, give the same tokenizer."""
    names = resolve_inputs(inputs)
    if output == "-":
        raise UsageError("a tokenizer is a file; name it with -o tokenizer.json")
    check_json_output(rejects)
    check_json_output(report_to)
    exported = None if export == "none" else str(Path(output).with_suffix(f".{export}"))
    if exported is not None and model != "bpe":
        raise UsageError(f"--export {export} needs --model bpe: it holds byte-level BPE only")
    written = [path for path in (output, exported, report_to) if path is not None]
    lean_process()
    from llmtools.formats.document import read_documents
    from llmtools.formats.manifest import Recorder
    from llmtools.formats.skips import open_skips
    from llmtools.tokenizer.export import write_gguf_vocabulary, write_tiktoken
    from llmtools.tokenizer.fertility import Sample, measure
    from llmtools.tokenizer.train import TrainSettings, count_texts, learn_tokenizer

    named = None if special_tokens is None else tuple(special_tokens.split(","))
    settings = TrainSettings(
        vocab_size=vocab_size,
        model=model,
        pattern=pattern,
        special_tokens=() if special_tokens == "" else named,
        min_frequency=min_frequency,
        memory_bytes=byte_size("--memory", memory),
    )
    if dry_run:
        from llmtools.plan.tokenizer import plan_tokenizer_train

        show_plan(
            plan_tokenizer_train(
                names,
                written,
                rejects=rejects,
                on_error=on_error,
                text_key=text_key,
                settings=settings,
                force=force,
            )
        )
        return
    wants_report = report_to is not None or terminal.display().json
    sample = Sample(SAMPLE_BYTES) if wants_report else None
    recorder = Recorder("tokenizer train", asdict(settings) | {"special_tokens": settings.specials})
    with (
        claim_outputs(written, force=force, is_directory=False),
        open_skips(output, rejects, on_error, force=force) as skips,
    ):
        with terminal.progress("tokenizer train", unit="doc") as bar:

            def texts() -> Iterator[str]:
                documents = read_documents(
                    names, text_key=text_key, on_read=recorder.read, skips=skips
                )
                for document in documents:
                    bar.update()
                    if sample is not None:
                        sample.add(document)
                    yield document.text

            table = count_texts(texts(), settings)
        with terminal.progress("tokenizer train", total=vocab_size, unit="token") as tokens:
            trained = learn_tokenizer(
                table, settings, lambda num: tokens.update(num - tokens.count)
            )
        skips.record(recorder)
        fertility = None if sample is None else measure(trained, sample).to_json()
        with open_output(output, force=force, compress=False) as out:
            out.write(trained.to_json().encode())
        recorder.wrote(out)
        if exported is not None:
            write = write_tiktoken if export == "tiktoken" else write_gguf_vocabulary
            recorder.wrote(write(trained, exported, force=force))
        if report_to is not None:
            with open_output(report_to, force=force, compress=False) as out:
                out.write(json.dumps(fertility, indent=2, ensure_ascii=False).encode() + b"\n")
            recorder.wrote(out)
    recorder.count(
        documents=bar.count,
        words=table.num_read,
        different_words=len(table.counts) + table.num_left_out,
        words_left_out=table.num_read_left_out,
        vocab_size=trained.vocab_size,
        identity=trained.identity,
    )
    if table.num_left_out:
        recorder.warn(
            f"{table.num_left_out:,} different words, seen less than {table.least} times each and"
            f" {table.num_read_left_out / table.num_read:.2%} of all, were left out: training on"
            f" them would take more than --memory {memory}",
        )
    if trained.vocab_size < vocab_size:
        recorder.warn(
            f"only {trained.vocab_size} of {vocab_size} tokens: the documents hold no more of them",
        )
    recorder.write_beside(*written)
    summary = recorder.counts | ({} if fertility is None else {"fertility": fertility})
    report(summary, f"{output}: {trained.vocab_size:,} tokens from {bar.count:,} documents")
