"""The whole of `llm scorer train --kind classifier`: labelled documents to a fastText .bin."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from llmtools import terminal
from llmtools.data.classifier import ClassifierTraining, judge_classifier, train_classifier
from llmtools.data.labelled import as_class, hold_out, labelled_documents
from llmtools.errors import UsageError
from llmtools.formats.fasttext import dump_fasttext
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import claim_outputs, open_output
from llmtools.formats.skips import OnError, open_skips


def train_classifier_file(
    inputs: list[str],
    output: str,
    settings: ClassifierTraining,
    *,
    label_key: str = "label",
    val_fraction: float = 0.1,
    rejects: str | None = None,
    on_error: OnError = "fail",
    text_key: str = "text",
    force: bool = False,
) -> dict[str, Any]:
    """Write the model as a fastText .bin; returns the counts and the held-out accuracy and AUC.

    Documents that are held out are not trained on. Raises InputError for bad input, a document
    without a label, and fewer than two labels.
    """
    check_suffix(output)
    given = {"kind": "classifier", "label_key": label_key, "val_fraction": val_fraction}
    recorder = Recorder("scorer train", given | asdict(settings))
    with (
        claim_outputs([output], force=force, is_directory=False),
        open_skips(output, rejects, on_error, force=force) as skips,
    ):
        found = labelled_documents(
            inputs, label_key, as_class, text_key=text_key, on_read=recorder.read, skips=skips
        )
        texts: list[bytes] = []
        labels: list[str] = []
        with terminal.progress("scorer train", unit="doc") as bar:
            for document, label in found:
                texts.append(document.encoded)
                labels.append(label)
                bar.update()
        trained_on, held = hold_out(len(texts), val_fraction, settings.seed)
        trained = train_classifier(
            [texts[i] for i in trained_on], [labels[i] for i in trained_on], settings
        )
        report: dict[str, Any] = {}
        if len(held):
            report = judge_classifier(
                trained.file, [texts[i] for i in held], [labels[i] for i in held]
            )
        skips.record(recorder)
        with open_output(output, force=force, compress=False) as out:
            for piece in dump_fasttext(trained.file, trained.word_counts):
                out.write(piece)
    names = [label.decode().removeprefix("__label__") for label in trained.file.labels]
    recorder.count(
        documents=len(texts),
        held_out=len(held),
        labels=dict(zip(names, trained.file.label_counts.tolist(), strict=True)),
        words=len(trained.file.words),
        losses=trained.losses,
        **report,
    )
    recorder.wrote(out)
    recorder.write_beside(output)
    return recorder.counts


def check_suffix(output: str) -> None:
    """Raises UsageError for an output that is not named as fastText's models are."""
    if not output.endswith(".bin"):
        raise UsageError(f"-o {output}: a classifier is a fastText model; name FILE.bin")
