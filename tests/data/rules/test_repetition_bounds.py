from __future__ import annotations

from typing import get_args

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmtools.data.rules.gopher_repetition import repetition
from llmtools.data.rules.repetition_bounds import within_limits
from llmtools.data.rules.settings import Conventions, Words
from llmtools.data.rules.words import words_of
from text_batches import batch_of

TOP = (2, 3, 4)
DUP = (5, 6, 7, 8, 9, 10)
LIMITS = (1, 0.3, 0.2, 0.3, 0.2, 0.2, 0.18, 0.16, 0.15, 0.14, 0.13, 0.12, 0.11, 0.1)

pieces = st.sampled_from(["a", "b", "ab", "c", "é", "日", "a.b", "-", "🙂", "abc" * 30])
other = st.text(alphabet="abcdefgh", min_size=1, max_size=12)
spaces = st.sampled_from([" ", " ", " ", "\n", "\n\n", "\n\n\n", "\t", "\u2028", " \n ", ""])
texts = st.lists(st.tuples(pieces | other, spaces), max_size=120).map(
    lambda found: "".join(map("".join, found))
)


@given(batch=st.lists(texts, min_size=1, max_size=4))
def test_what_is_within_its_limit_by_the_bound_is_so_exactly(batch: list[str]) -> None:
    made = batch_of(batch)
    for kind in get_args(Words):
        exact = repetition(made, TOP, DUP, Conventions(words=kind))
        found = within_limits(made, words_of(made, kind), TOP, DUP, LIMITS)
        assert not (found[:, 1:] & (exact[:, 1:] > np.array(LIMITS[1:]))).any()


@given(batch=st.lists(texts, min_size=1, max_size=4))
def test_the_first_failure_is_the_same_with_and_without_bounds(batch: list[str]) -> None:
    made = batch_of(batch)
    exact = repetition(made, TOP, DUP, Conventions())
    short = repetition(made, TOP, DUP, Conventions(), LIMITS)
    for one, other_one in zip(exact, short, strict=True):
        fails = [c for c in range(1, len(LIMITS)) if one[c] > LIMITS[c]][:1]
        assert fails == [c for c in range(1, len(LIMITS)) if other_one[c] > LIMITS[c]][:1]
        assert one[fails].tolist() == other_one[fails].tolist()
        assert (one[0] > 0) == (other_one[0] > 0)


def test_a_text_without_repetitions_is_settled_and_one_of_them_is_not() -> None:
    words = [f"word{number}x{number * 7919 % 1000}" for number in range(400)]
    lines = "\n".join(" ".join(words[i : i + 10]) for i in range(0, 400, 10))
    made = batch_of([lines, lines + "\n" + lines, "a b c d e f g h i j " * 40])
    found = within_limits(made, words_of(made, "fast"), TOP, DUP, LIMITS)
    assert found.all(axis=1).tolist() == [True, False, False]


def test_words_written_together_in_another_way_are_one_n_gram() -> None:
    # datatrove joins words: these have the same letters, the first in short words.
    text = "ab c d e f. xyz a bc d e f. and abc def gh ijkl mn op abcd ef gh ijkl mn"
    made = batch_of([text])
    found = within_limits(made, words_of(made, "fast"), (), (5,), [1, *[1.0] * 4, 0.05])
    assert repetition(made, (), (5,), Conventions())[0, -1] > 0.05
    assert not found[0, -1]


def test_long_texts_have_larger_tables() -> None:
    unique = " ".join(f"w{number}" for number in range(100_000))
    made = batch_of(["short and plain text", unique, unique[: 1 << 18] * 2])
    found = within_limits(made, words_of(made, "fast"), (2,), (5, 10), [1, *[0.3] * 7])
    assert found[1].all() and not found[2].all()
