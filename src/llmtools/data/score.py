"""The whole of `llm score`: numbers into metadata.scores, every other byte as it was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmtools import terminal
from llmtools.data.batch import Batch, batches
from llmtools.data.scorer import Scorer
from llmtools.errors import UsageError
from llmtools.formats.document import read_documents
from llmtools.formats.json_edit import add_within_metadata
from llmtools.formats.malformed import MalformedRecord, NothingLeft
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import OutputStream, open_output
from llmtools.formats.skips import OnError, Skips, open_skips
from llmtools.formats.stream import names_of

KEY = "scores"


def check_names(scorers: Sequence[Scorer]) -> None:
    """Raises UsageError where two scorers would write the same field."""
    seen: dict[str, str] = {}
    for scorer in scorers:
        if scorer.name in seen:
            raise UsageError(
                f"--with {seen[scorer.name]} and {scorer.where} would both write"
                f" metadata.scores.{scorer.name}; give each a --name"
            )
        seen[scorer.name] = scorer.where


def score_documents(
    inputs: list[str],
    output: str,
    scorers: Sequence[Scorer],
    *,
    rejects: str | None = None,
    on_error: OnError = "fail",
    text_key: str = "text",
    force: bool = False,
) -> dict[str, Any]:
    """Write all documents, in order, with their scores; returns the counts.

    A document without a score, as one without words has none by a language model, gets null.
    Raises InputError for bad input and for input without any document.
    """
    check_names(scorers)
    names = [scorer.name for scorer in scorers]
    recorder = Recorder("score", {"scores": names, "text_key": text_key})
    for scorer in scorers:
        recorder.read_path(Path(scorer.where))
    with open_skips(output, rejects, on_error, force=force) as skips:
        skips.adds_metadata = True
        documents = read_documents(inputs, text_key=text_key, on_read=recorder.read, skips=skips)
        without = dict.fromkeys(names, 0)
        count = 0
        with (
            open_output(output, force=force) as out,
            terminal.progress("score", unit="doc") as bar,
        ):
            for batch in batches(documents):
                values = _values(batch, scorers)
                for name in names:
                    without[name] += sum(row[name] is None for row in values)
                count += len(values) - _write(batch, values, out, skips)
                bar.update(len(values))
            if not count:
                raise NothingLeft(
                    f"{names_of(inputs)}: no documents in the input{skips.explain()}",
                    {"documents": 0, "documents_skipped": skips.count},
                )
        recorder.count(documents=count, without_score=without)
        skips.record(recorder)
        recorder.wrote(out)
    recorder.write_beside(output)
    return recorder.counts


def _values(batch: Batch, scorers: Sequence[Scorer]) -> list[dict[str, float | None]]:
    rows: list[dict[str, float | None]] = [{} for _ in batch.documents]
    for scorer in scorers:
        for name, column in scorer.score(batch).items():
            for row, value in zip(rows, column.tolist(), strict=True):
                row[name] = value if math.isfinite(value) else None
    return rows


def _write(
    batch: Batch, values: list[dict[str, float | None]], out: OutputStream, skips: Skips
) -> int:
    """Write a batch; returns how many of it were malformed and dropped."""
    dropped = 0
    for document, row in zip(batch.documents, values, strict=True):
        try:
            out.write(add_within_metadata(document.raw, KEY, row, document.where) + b"\n")
        except MalformedRecord as fault:
            skips.drop(fault)
            dropped += 1
    return dropped
