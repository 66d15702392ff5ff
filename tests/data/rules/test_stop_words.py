from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtools.data.rules.settings import Conventions, Dialect
from llmtools.data.rules.stop_words import STOP_WORDS, stop_words, stop_words_reference
from text_batches import batch_of

words = st.sampled_from([*STOP_WORDS, "The", "AND", "theory", "th", "o", "of.", "withwith", "日"])
texts = st.lists(words | st.text("theandof", max_size=9), max_size=90).map(" ".join)


@pytest.mark.parametrize("dialect", get_args(Dialect))
@given(batch=st.lists(texts, min_size=1, max_size=4), enough=st.integers(0, 9))
def test_stop_words_are_those_of_the_reference(
    dialect: Dialect, batch: list[str], enough: int
) -> None:
    conventions = Conventions(dialect=dialect)
    expected = [stop_words_reference(text.split(), conventions) for text in batch]
    assert stop_words(batch_of(batch), conventions).tolist() == expected
    found = stop_words(batch_of(batch), conventions, enough).tolist()
    # Up to what is enough the number is right, and beyond it there are at least as many.
    for some, every in zip(found, expected, strict=True):
        assert some == every if every < enough or not enough else enough <= some <= every
