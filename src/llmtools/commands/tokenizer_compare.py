"""`llm tokenizer compare`: how several tokenizers encode the same documents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtools import terminal
from llmtools.commands.common import (
    DryRun,
    OnErrorFlag,
    TextKey,
    byte_size,
    command,
    make_app,
    show_plan,
)
from llmtools.errors import UsageError

if TYPE_CHECKING:
    from llmtools.tokenizer.fertility import Fertility

app = make_app()
# Languages, and sources, that the table shows: those with the most text.
MAX_LINES = 20


@command(
    app,
    "tokenizer",
    verb="compare",
    examples=[
        "llm tokenizer compare ours.json base/ docs.jsonl.zst",
        "llm tokenizer compare small.json large.json docs.jsonl --sample-bytes 4M --json",
    ],
)
def compare(
    *,
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="TOKENIZER... DOCUMENTS",
            help="Tokenizers, model directories or GGUF files; last the documents (- for stdin).",
        ),
    ],
    sample_bytes: Annotated[
        str,
        typer.Option(
            "--sample-bytes", help="Text that is encoded of each language and source, about."
        ),
    ] = "1M",
    dry_run: DryRun = False,
    on_error: OnErrorFlag = "fail",
    text_key: TextKey = "text",
) -> None:
    """Print tokens a word, bytes a token and coverage of tokenizers, by language and source."""
    if len(places) < 2:
        raise UsageError("name at least one tokenizer and then the documents")
    room = byte_size("--sample-bytes", sample_bytes)
    from llmtools.formats.document import read_documents
    from llmtools.formats.input_names import expand_inputs
    from llmtools.formats.malformed import NothingLeft
    from llmtools.formats.skips import Skips
    from llmtools.tokenizer.fertility import Sample, measure
    from llmtools.tokenizer.load import load_tokenizer

    loaded = [load_tokenizer(place) for place in places[:-1]]
    # Looks at the ids too, before any document is read.
    sizes = [tokenizer.vocab_size for tokenizer in loaded]
    names = expand_inputs(places[-1:])
    if dry_run:
        from llmtools.plan.tokenizer import plan_tokenizer_compare

        show_plan(
            plan_tokenizer_compare(
                names, loaded, sample_bytes=room, on_error=on_error, text_key=text_key
            )
        )
        return
    sample = Sample(room)
    with terminal.progress("tokenizer compare", unit="doc") as bar:
        for document in read_documents(names, text_key=text_key, skips=Skips(on_error)):
            bar.update()
            sample.add(document)
    if bar.count == 0:
        raise NothingLeft(f"{places[-1]}: no documents to compare tokenizers on")
    found = [measure(tokenizer, sample) for tokenizer in loaded]
    if terminal.display().json:
        rows = [
            {
                "tokenizer": place,
                "identity": tokenizer.identity,
                "vocab_size": size,
                **fertility.to_json(),
            }
            for place, tokenizer, size, fertility in zip(
                places[:-1], loaded, sizes, found, strict=True
            )
        ]
        terminal.emit_json({"documents": bar.count, "tokenizers": rows})
        return
    encoded = found[0].total
    terminal.note(f"{encoded.documents:,} of {bar.count:,} documents, {encoded.bytes:,} bytes")
    terminal.emit_text(_table(_short(places[:-1]), sizes, found) + "\n")


def _short(places: list[str]) -> list[str]:
    """The last parts of the paths, which head columns; the paths where two end alike."""
    ends = [Path(place).name for place in places]
    return ends if len(set(ends)) == len(ends) else places


def _table(names: list[str], sizes: list[int], found: list[Fertility]) -> str:
    """All together, then bytes a token of each language and source, a column a tokenizer."""
    rows: list[list[Any]] = []
    for name, size, fertility in zip(names, sizes, found, strict=True):
        whole = fertility.total.to_json()
        shares = [f"{whole[key]:.3%}" for key in ("unknown_share", "byte_share")]
        per = [round(whole[key], 3) for key in ("tokens_per_word", "bytes_per_token")]
        rows.append([name, size, *per, *shares])
    header = ["tokenizer", "tokens", "a word", "bytes a token", "unknown", "lone bytes"]
    parts = [terminal.format_table(header, rows)]
    for title, groups in (
        ("language", [f.languages for f in found]),
        ("source", [f.sources for f in found]),
    ):
        if len(groups[0]) > 1:
            most = sorted(groups[0].items(), key=lambda item: -item[1].bytes)[:MAX_LINES]
            lines = [
                [name, tally.bytes, *(round(g[name].bytes_per_token, 3) for g in groups)]
                for name, tally in most
            ]
            parts.append(terminal.format_table([title, "bytes", *names], lines))
            if len(groups[0]) > MAX_LINES:
                parts[-1] += f"\n... and {len(groups[0]) - MAX_LINES} more (--json has all)"
    return "\n\n".join(parts)
