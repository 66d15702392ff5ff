"""n-gram language models against KenLM 0.3.0, whose package has to be compiled: values kept.

kenlm_golden.json holds two ARPA files and what `kenlm.Model(file).full_scores(sentence, bos=True,
eos=True)` said. Tolerance: 1e-6 in log10, KenLM's own rounding, as it adds in float32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmtools.data.ngram_arpa import load_arpa
from llmtools.data.ngram_lm import NGramModel
from llmtools.data.ngram_text import split_words

GOLDEN = json.loads((Path(__file__).parent / "kenlm_golden.json").read_text())
WHOLE, WITHOUT_SUFFIXES = GOLDEN["models"]


def load(arpa: str, folder: Path) -> NGramModel:
    (folder / "lm.arpa").write_text(arpa)
    return load_arpa(folder / "lm.arpa", "none")


def distance(model: NGramModel, scores: list[list[float]]) -> float:
    """The largest difference of a word's score."""
    furthest = 0.0
    for sentence, wanted in zip(GOLDEN["sentences"], scores, strict=True):
        found = model.word_scores(split_words([sentence.encode()]))[1:]
        furthest = max(furthest, float(np.abs(found - wanted).max()))
    return furthest


@pytest.mark.parametrize("golden", [WHOLE, WITHOUT_SUFFIXES], ids=["whole", "without suffixes"])
def test_every_words_score_is_kenlms(golden: dict[str, Any], tmp_path: Path) -> None:
    assert distance(load(golden["arpa"], tmp_path), golden["scores"]) < 1e-6


def test_the_comparison_rejects_another_backoff_and_another_context(tmp_path: Path) -> None:
    """Broken twins: one weight a little off; the two files' scores changed for each other's."""
    line = next(x for x in WHOLE["arpa"].split("\n") if x.split("\t")[1:2] == ["the"])
    fields = line.split("\t")
    hurt = "\t".join([*fields[:2], f"{float(fields[2]) + 0.001}"])
    model = load(WHOLE["arpa"].replace(line, hurt), tmp_path)
    assert distance(model, WHOLE["scores"]) > 1e-4
    assert distance(load(WHOLE["arpa"], tmp_path), WITHOUT_SUFFIXES["scores"]) > 1e-4


def test_sums_of_texts_are_kenlms_over_their_lines(tmp_path: Path) -> None:
    model = load(WHOLE["arpa"], tmp_path)
    sums, counts = model.score_texts(["\n".join(GOLDEN["sentences"])])
    assert counts[0] == sum(map(len, WHOLE["scores"]))
    assert sums[0] == pytest.approx(sum(map(sum, WHOLE["scores"])), abs=1e-5)
