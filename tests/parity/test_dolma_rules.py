"""dolma's gopher_v1 tagger: what it says of three texts, written down.

The values are those of python/dolma/taggers/gopher.py, get_attributes; the package needs an
old numpy and cannot stand beside ours.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmtools.data.rules.settings import Conventions
from llmtools.data.rules.table import choose
from text_batches import batch_of

GOLDEN: list[tuple[str, dict[str, float], list[float], list[float]]] = [
    (
        "# The cat and the hat…\n* be with me\n\n- to have and to hold, to have and to hold,"
        " to have and to hold\nThat is it…\nThat is it…\n",
        {
            "doc_words": 32,
            "median_word_length": 3.0,
            "symbol_word_ratio": 0.125,
            "alpha_words_ratio": 0.90625,
            "stop_words": 16,
            "bullet_lines_ratio": 0.2857142857142857,
            "ellipsis_lines_ratio": 0.42857142857142855,
            "dup_line_frac": 0.5714285714285714,
            "dup_line_char_frac": 0.2391304347826087,
        },
        [0.1956521739130435, 0.29347826086956524, 0.358695652173913],
        [
            0.39119804400978,
            0.31645569620253167,
            0.24858757062146894,
            0.17152658662092624,
            0.08557844690966719,
            0.0,
        ],
    ),
    (
        "one two three one two three four five six seven eight nine ten one two three four five six"
        " seven eight nine ten\nx\nx\n 12 34 …\n",
        {
            "doc_words": 28,
            "median_word_length": 3.0,
            "symbol_word_ratio": 0.03571428571428571,
            "alpha_words_ratio": 0.8928571428571429,
            "stop_words": 0,
            "bullet_lines_ratio": 0.0,
            "ellipsis_lines_ratio": 0.2,
            "dup_line_frac": 0.4,
            "dup_line_char_frac": 0.020833333333333332,
        },
        [0.1875, 0.34375, 0.3125],
        [
            0.5614849187935035,
            0.48111332007952284,
            0.4021164021164021,
            0.3146067415730337,
            0.21492537313432836,
            0.11001410437235543,
        ],
    ),
    (
        "Łódź łódź 日本語 日本語 a1 1 - * of Of of\n\n\nüber #1 über #1 über #1",
        {
            "doc_words": 17,
            "median_word_length": 2.0,
            "symbol_word_ratio": 0.17647058823529413,
            "alpha_words_ratio": 0.6470588235294118,
            "stop_words": 2,
            "bullet_lines_ratio": 0.0,
            "ellipsis_lines_ratio": 0.0,
            "dup_line_frac": 0.5,
            "dup_line_char_frac": 0.0,
        },
        [0.4186046511627907, 0.46511627906976744, 0.5581395348837209],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ),
]
TEXTS = [text for text, *_ in GOLDEN]


def measured(conventions: Conventions) -> list[dict[str, Any]]:
    rules = choose(("gopher-quality", "repetition"), {}, conventions).build()
    found: list[dict[str, Any]] = [{} for _ in TEXTS]
    for rule in rules:
        for one, more in zip(
            found, rule.apply(batch_of(TEXTS), annotate=True).measures, strict=True
        ):
            one.update(more)
    return found


def expected(row: int) -> dict[str, float]:
    _, values, top, dup = GOLDEN[row]
    named = {f"top_{n}_gram": value for n, value in enumerate(top, 2)}
    return values | named | {f"dup_{n}_grams": value for n, value in enumerate(dup, 5)}


@pytest.mark.parametrize("row", range(len(GOLDEN)))
def test_the_dialect_measures_what_dolmas_tagger_does(row: int) -> None:
    assert measured(Conventions(dialect="dolma"))[row] == pytest.approx(expected(row), rel=1e-12)


def test_the_comparison_rejects_another_dialect() -> None:
    found = measured(Conventions(dialect="dclm"))
    for row, one in enumerate(found):
        wanted = {key: value for key, value in expected(row).items() if key in one}
        assert {key: one[key] for key in wanted} != pytest.approx(wanted, rel=1e-12)
