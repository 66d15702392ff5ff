"""fastText files: what is refused, and what is written."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from fuzz import mutate
from llmtools.data.fasttext import FastText
from llmtools.errors import InputError
from llmtools.formats.fasttext import dump_fasttext, read_fasttext
from text_batches import batch_of
from tiny_fasttext import TEXTS, WORDS, write_model

KINDS = [
    {"word_ngrams": 2, "minn": 2, "maxn": 3},
    {"loss": 1, "minn": 2, "maxn": 3, "is_quantised": True, "has_norms": True, "is_pruned": True},
]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.bin", word_ngrams=2, minn=2, maxn=3)
    file = read_fasttext(path)
    copy = tmp_path / "copy.bin"
    copy.write_bytes(b"".join(dump_fasttext(file, np.arange(len(WORDS)))))
    again = read_fasttext(copy)
    assert (again.words, again.labels, again.bucket) == (file.words, file.labels, file.bucket)
    assert np.array_equal(again.inputs, file.inputs)
    assert np.array_equal(again.outputs, file.outputs)


@pytest.mark.parametrize(
    ("at", "code", "value", "says"),
    [
        (0, "<i", 1, "not a fastText model"),
        (4, "<i", 13, "version 13"),
        (8, "<i", 8, "rows of 7 and 7 for dim 8"),
        (8 + 4 * 6, "<i", 9, "loss 9 is unknown"),
        (8 + 4 * 7, "<i", 1, "the model is cbow"),
        (8 + 4 * 8, "<i", 0, "0 buckets"),
        (8 + 4 * 8, "<i", 2**31 - 1, "2147483647 buckets"),
        (8 + 4 * 10, "<i", 2**31 - 1, "maxn is 2147483647"),
        (64, "<i", 2**31 - 1, "are not 10 words and 5 labels"),
        (68, "<i", -1, "-1 words"),
        (84, "<q", 2**62, "the file is cut short or damaged"),
    ],
)
def test_a_header_that_lies_is_named(
    tmp_path: Path, at: int, code: str, value: int, says: str
) -> None:
    path = write_model(tmp_path / "model.bin", **KINDS[0])
    data = bytearray(path.read_bytes())
    struct.pack_into(code, data, at, value)
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_fasttext(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_is_refused(tmp_path: Path, kind: dict[str, object]) -> None:
    path = write_model(tmp_path / "model.bin", **kind)
    data = path.read_bytes()
    for size in [*range(0, 400, 3), *range(400, len(data) - 1, 997), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(InputError):
            read_fasttext(path)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_a_message_or_a_score(tmp_path: Path, kind: dict[str, object]) -> None:
    path = write_model(tmp_path / "model.bin", **kind)
    data = path.read_bytes()
    batch = batch_of(TEXTS)
    refused = 0
    for seed in range(300):
        path.write_bytes(mutate.in_bytes(data, random.Random(seed)))
        try:
            scores = FastText.load(path).scores(batch.buffer, batch.offsets)
        except InputError as fault:
            assert str(path) in str(fault)
            refused += 1
        else:
            assert np.isfinite(scores).all()
    assert 100 < refused < 300


def test_files_that_are_no_models(tmp_path: Path) -> None:
    for content in (b"", b"hello", b"\x00" * 7):
        path = tmp_path / "file.bin"
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a fastText model"):
            read_fasttext(path)
    with pytest.raises(InputError, match="No such file"):
        read_fasttext(tmp_path / "absent.bin")
