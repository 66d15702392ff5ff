"""The whole of `llm scorer train --kind regression`: rated documents and vectors to a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools import terminal
from llmtools.data.labelled import as_number, hold_out, labelled_documents
from llmtools.data.regression import Embed, Link, dump_regression, fit, judge
from llmtools.errors import InputError, UsageError
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import claim_outputs, open_output
from llmtools.formats.skips import OnError, open_skips
from llmtools.formats.vectors import open_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where vectors come from: a file with a row for each document, or a model.

    embed: the model at `encoder`, loaded; None where `vectors` is given.
    """

    vectors: str | None = None
    encoder: str | None = None
    embed: Embed | None = None


def train_regression_file(
    inputs: list[str],
    output: str,
    source: Source,
    *,
    link: Link = "linear",
    l2: float = 0.01,
    seed: int = 1,
    label_key: str = "label",
    val_fraction: float = 0.1,
    rejects: str | None = None,
    on_error: OnError = "fail",
    text_key: str = "text",
    force: bool = False,
) -> dict[str, Any]:
    """Write the regression as safetensors; returns the counts and how it does on what is held out.

    Raises InputError for bad input, labels that are no numbers, and a number of vectors that is not
    that of the documents.
    """
    check_arguments(output, source, on_error)
    given = {"kind": "regression", "link": link, "l2": l2, "seed": seed, "label_key": label_key}
    recorder = Recorder("scorer train", given | {"val_fraction": val_fraction})
    vectors = None
    if source.vectors is not None:
        vectors = open_vectors(Path(source.vectors))
        recorder.read_path(Path(source.vectors))
    else:
        recorder.read_path(Path(source.encoder or ""))
    with (
        claim_outputs([output], force=force, is_directory=False),
        open_skips(output, rejects, on_error, force=force) as skips,
    ):
        found = labelled_documents(
            inputs, label_key, as_number, text_key=text_key, on_read=recorder.read, skips=skips
        )
        ratings: list[float] = []
        embedded: list[npt.NDArray[np.float32]] = []
        with terminal.progress("scorer train", unit="doc") as bar:
            for document, rating in found:
                ratings.append(rating)
                if source.embed is not None:
                    embedded.append(source.embed([document.text])[0])
                bar.update()
        if vectors is None:
            vectors = np.array(embedded, np.float32)
        if len(vectors) != len(ratings):
            raise InputError(
                f"{source.vectors}: {len(vectors):,} vectors for {len(ratings):,} documents; a row"
                " for each document, in their order, is needed"
            )
        targets = np.array(ratings, np.float64)
        trained_on, held = hold_out(len(targets), val_fraction, seed)
        model = fit(vectors[trained_on], targets[trained_on], link, l2)
        model = replace(model, encoder=source.encoder or "")
        report = judge(model, vectors[held], targets[held]) if len(held) else {}
        skips.record(recorder)
        with open_output(output, force=force, compress=False) as out:
            for piece in dump_regression(model):
                out.write(piece)
    recorder.count(documents=len(targets), held_out=len(held), dim=vectors.shape[1], **report)
    recorder.wrote(out)
    recorder.write_beside(output)
    return recorder.counts


def check_arguments(output: str, source: Source, on_error: OnError) -> None:
    """Raises UsageError for an output with another name, or vectors from nowhere or two places."""
    if not output.endswith(".safetensors"):
        raise UsageError(f"-o {output}: name FILE.safetensors")
    if (source.vectors is None) == (source.encoder is None):
        raise UsageError("a regression needs vectors: either --vectors FILE or --encoder MODEL")
    if source.vectors is not None and on_error == "skip":
        raise UsageError("--on-error skip would move documents away from the rows of --vectors")
