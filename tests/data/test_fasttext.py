"""What a fastText model says: characters, empty texts, memory of tokens, large matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmtools.data import fasttext
from llmtools.data.fasttext import FastText, HuffmanTree
from text_batches import batch_of
from tiny_fasttext import TEXTS, write_model


def model(tmp_path: Path, **kind: object) -> FastText:
    return FastText.load(write_model(tmp_path / "model.bin", **kind))


def test_a_line_end_is_a_space(tmp_path: Path) -> None:
    asked = batch_of(["the\nend of\r\nit", "the end of it"])
    one, two = model(tmp_path, word_ngrams=2, maxn=3).scores(asked.buffer, asked.offsets)
    assert np.array_equal(one, two)


def test_only_the_first_characters_count(tmp_path: Path) -> None:
    found = model(tmp_path, maxn=3)
    long, short = batch_of(["größe und", "ab"]), batch_of(["größe", "ab"])
    whole = found.scores(short.buffer, short.offsets)
    assert np.array_equal(found.scores(long.buffer, long.offsets, 5), whole)
    assert not np.array_equal(found.scores(long.buffer, long.offsets), whole)


def test_a_text_without_anything_to_judge_has_no_label(tmp_path: Path) -> None:
    asked = batch_of(["unknown words", ""])
    predictions = model(tmp_path, words=["the"]).predict(asked.buffer, asked.offsets)
    assert [(p.label, p.score) for p in predictions] == [("", 0.0), ("", 0.0)]


def test_texts_do_not_depend_on_their_neighbours(tmp_path: Path) -> None:
    found = model(tmp_path, word_ngrams=3, minn=1, maxn=5)
    # More tokens and rows than the memory of tokens holds.
    texts = [*TEXTS, " ".join(f"{word:x}{word * 7919:064b}" for word in range(3000)), *TEXTS]
    together = batch_of(texts)
    alone = []
    for text in texts:
        one = batch_of([text])
        alone.append(found.scores(one.buffer, one.offsets)[0])
    assert np.array_equal(found.scores(together.buffer, together.offsets), np.array(alone))


def test_codes_of_a_large_matrix_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {"minn": 2, "maxn": 3, "is_quantised": True, "has_norms": True}
    asked = batch_of(TEXTS)
    unpacked = model(tmp_path, **kind).scores(asked.buffer, asked.offsets)
    monkeypatch.setattr(fasttext, "MAX_UNPACKED", 0)
    packed = FastText.load(tmp_path / "model.bin")
    assert np.array_equal(packed.scores(asked.buffer, asked.offsets), unpacked)


def test_the_rarest_labels_of_a_tree_are_the_deepest() -> None:
    tree = HuffmanTree(np.array([100, 50, 10, 5, 1]))
    depth = {}
    for number, level in enumerate(tree.levels, 1):
        for child in tree.children[level].ravel().tolist():
            depth[child] = number
    assert [depth[label] for label in range(5)] == [1, 2, 3, 4, 4]
    chances = tree.scores(np.zeros((1, 4), np.float32))[0]
    assert chances.tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16], abs=1e-4)
