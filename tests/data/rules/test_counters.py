from __future__ import annotations

from statistics import median
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtools.data.rules.counters import counters, counters_reference
from llmtools.data.rules.settings import Conventions, Dialect
from text_batches import batch_of

signs = st.sampled_from(
    [
        "a",
        "The",
        "of",
        "with",
        "#",
        ".",
        "...",
        ". . .",
        "…",
        "•",
        "- x",
        "* y",
        "●",
        "日",
        "7",
        "🙂",
    ]
)
ends = st.sampled_from(
    [" ", "\n", "\r\n", "\r", "\x85", "\u2028", "\v", "\x1c", "\u3000", "", "\t"]
)
texts = st.lists(st.tuples(signs, ends), max_size=40).map(lambda t: "".join(map("".join, t)))


@pytest.mark.parametrize("dialect", get_args(Dialect))
@given(batch=st.lists(texts | st.text(), min_size=1, max_size=4))
def test_the_kernels_count_what_the_reference_does(dialect: Dialect, batch: list[str]) -> None:
    conventions = Conventions(dialect=dialect)
    found = counters(batch_of(batch), conventions)
    for row, text in enumerate(batch):
        words = text.split()
        for name, value in counters_reference(text, words, conventions).items():
            assert found[name][row] == value, (name, text)
        lengths = list(map(len, words)) if dialect == "dolma" else []
        assert found["twice_median_length"][row] == (2 * median(lengths) if lengths else 0)


def test_a_word_counts_when_it_holds_a_letter_or_digit() -> None:
    found = counters(batch_of(["one -- two, 3) # … ** a_b ünï 日本"]), Conventions())
    assert found["alnum_words"][0] == 6
    assert found["words"][0] == 10
    # '#', '…' and '*' are in datatrove's list of punctuation.
    assert found["solid_words"][0] == 6
