"""`llm tokenizer extend`: new tokens for a tokenizer, or for a model with its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
from llmtools.errors import UsageError
from llmtools.formats.output import atomic_directory, claim_outputs, open_output

if TYPE_CHECKING:
    from llmtools.formats.manifest import Recorder
    from llmtools.tokenizer.extend import Extension
    from llmtools.tokenizer.fertility import Sample

app = make_app()
# Text of each language and source from which likeness of contexts is taken.
SAMPLE_BYTES = 4 << 20


@command(
    app,
    "tokenizer",
    verb="extend",
    examples=[
        "llm tokenizer extend tokenizer.json law.jsonl.zst --add 4000 -o law.json",
        "llm tokenizer extend base/ polish/*.zst --add 8000 --embeddings focus -o base-polish/",
    ],
)
def extend(
    *,
    place: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_TOKENIZER", help="A model directory, or a tokenizer alone."
        ),
    ],
    inputs: Inputs = None,
    num_new: Annotated[int, typer.Option("--add", help="New tokens, at most.")],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", help="The new model directory; of a tokenizer alone, the .json."
        ),
    ],
    embeddings: Annotated[
        Literal["mean", "focus"],
        typer.Option(
            "--embeddings",
            help="A model's new rows: the mean of the old pieces, or of old tokens that stand in"
            " like contexts.",
        ),
    ] = "mean",
    min_frequency: Annotated[
        int, typer.Option("--min-frequency", min=0, help="How often a pair must occur.")
    ] = 0,
    memory: Annotated[
        str, typer.Option("--memory", help="For words and training; see tokenizer train.")
    ] = "2G",
    force: Force = False,
    dry_run: DryRun = False,
    on_error: OnErrorFlag = "fail",
    rejects: Rejects = None,
    text_key: TextKey = "text",
) -> None:
    """Add tokens learned from documents; old tokens keep their ids, a model gets rows for them."""
    names = resolve_inputs(inputs)
    if output == "-":
        raise UsageError("the output is a file or a directory; name it with -o")
    check_json_output(rejects)
    memory_bytes = byte_size("--memory", memory)
    from llmtools.formats.document import read_documents
    from llmtools.formats.manifest import Recorder
    from llmtools.formats.skips import open_skips
    from llmtools.tokenizer.extend import extend_tokenizer
    from llmtools.tokenizer.fertility import Sample
    from llmtools.tokenizer.load import load_tokenizer

    tokenizer = load_tokenizer(place)
    is_model = Path(place).is_dir() and (Path(place) / "config.json").is_file()
    if embeddings != "mean" and not is_model:
        raise UsageError(f"--embeddings {embeddings} has no effect: {place} is no model directory")
    if dry_run:
        from llmtools.plan.tokenizer import plan_tokenizer_extend

        show_plan(
            plan_tokenizer_extend(
                names,
                output,
                tokenizer,
                Path(place) if is_model else None,
                num_new=num_new,
                memory_bytes=memory_bytes,
                rejects=rejects,
                on_error=on_error,
                text_key=text_key,
                force=force,
            )
        )
        return
    settings = {"add": num_new, "min_frequency": min_frequency, "memory_bytes": memory_bytes}
    recorder = Recorder("tokenizer extend", settings | {"embeddings": embeddings})
    if is_model:
        recorder.read_path(Path(place))
    else:
        recorder.read_named(place)
    sample = Sample(SAMPLE_BYTES)
    with (
        claim_outputs([output], force=force, is_directory=is_model),
        open_skips(output, rejects, on_error, force=force) as skips,
    ):
        with terminal.progress("tokenizer extend", unit="doc") as bar:

            def texts() -> Iterator[str]:
                documents = read_documents(
                    names, text_key=text_key, on_read=recorder.read, skips=skips
                )
                for document in documents:
                    bar.update()
                    if embeddings == "focus":
                        sample.add(document)
                    yield document.text

            extension = extend_tokenizer(
                tokenizer,
                texts(),
                num_new,
                min_frequency=min_frequency,
                memory_bytes=memory_bytes,
            )
        skips.record(recorder)
        longer = extension.tokenizer
        recorder.count(
            documents=bar.count,
            words_left_out=extension.table.num_read_left_out,
            new_tokens=len(extension.pieces),
            vocab_size=longer.vocab_size,
            identity=longer.identity,
        )
        if is_model:
            _write_model(Path(place), output, extension, recorder, sample, force=force)
        else:
            with open_output(output, force=force, compress=False) as out:
                out.write(longer.to_json().encode())
            recorder.wrote(out)
    if len(extension.pieces) < num_new:
        recorder.warn(
            f"only {len(extension.pieces)} of {num_new} tokens: the documents hold no more pairs"
        )
    recorder.write_beside(output)
    report(
        recorder.counts,
        f"{output}: {len(extension.pieces):,} new tokens, {longer.vocab_size:,} in all",
    )


def _write_model(
    model: Path,
    output: str,
    extension: Extension,
    recorder: Recorder,
    sample: Sample,
    *,
    force: bool,
) -> None:
    """The model with its longer tokenizer; `sample` is empty unless likeness is asked for."""
    import shutil

    from llmtools.formats.checkpoint import open_checkpoint
    from llmtools.formats.manifest import KEY
    from llmtools.tokenizer.load import GENERATION_FILE
    from llmtools.tokenizer.new_rows import focus_rows, mean_rows, write_extended

    checkpoint = open_checkpoint(model)
    longer, pieces = extension.tokenizer, extension.pieces
    is_focus = recorder.settings["embeddings"] == "focus"
    rows = focus_rows(pieces, longer, sample) if is_focus else mean_rows(pieces)
    with atomic_directory(output, force=force) as folder:
        old_size = longer.vocab_size - len(pieces)
        write_extended(folder, checkpoint, rows, old_size, {KEY: recorder.id})
        longer.save(folder)
        if (model / GENERATION_FILE).is_file():
            shutil.copy(model / GENERATION_FILE, folder / GENERATION_FILE)
        recorder.wrote_tree(folder)
