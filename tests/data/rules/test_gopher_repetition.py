from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtools.data.batch import Batch
from llmtools.data.rules.gopher_repetition import repetition, repetition_reference
from llmtools.data.rules.settings import Conventions, Dialect, Words
from llmtools.data.rules.words import words_of
from text_batches import batch_of

TOP = (2, 3, 4)
DUP = (5, 6, 7, 8, 9, 10)
DIALECTS = get_args(Dialect)

# Few words and letters, so that blocks and n-grams repeat; unusual white space, wide characters.
pieces = st.sampled_from(["a", "b", "ab", "c", "é", "日", "a.b", "-", "🙂", "abc" * 100])
spaces = st.sampled_from([" ", "\n", "\n\n", "\n\n\n", "\t", "\u2028", " \n ", "\u3000", ""])
texts = st.lists(st.tuples(pieces, spaces), max_size=60).map(lambda t: "".join(map("".join, t)))


def words_in(batch: Batch, words: Words) -> list[list[str]]:
    table, data = words_of(batch, words), batch.buffer.tobytes()
    found = [
        data[start : start + size].decode()
        for start, size in zip(table.starts.tolist(), table.num_bytes.tolist(), strict=True)
    ]
    return [found[a:b] for a, b in zip(table.offsets[:-1], table.offsets[1:], strict=True)]


@pytest.mark.parametrize("dialect", DIALECTS)
@given(batch=st.lists(texts, min_size=1, max_size=4))
def test_the_kernel_measures_what_the_reference_does(dialect: Dialect, batch: list[str]) -> None:
    made = batch_of(batch)
    for kind in get_args(Words):
        found = repetition(made, TOP, DUP, Conventions(dialect=dialect, words=kind))
        words = words_in(made, kind)
        for row, text, own in zip(found, batch, words, strict=True):
            assert row.tolist() == repetition_reference(text, own, TOP, DUP, dialect), repr(text)


def test_n_grams_come_in_any_order() -> None:
    text = "a b c a b c a b c x y z a b c a b"
    batch = batch_of([text])
    for top, dup in (((4, 2), (7, 5)), ((), (5,)), ((3,), ()), ((2,), (2, 3))):
        row = repetition(batch, top, dup, Conventions())[0]
        assert row.tolist() == repetition_reference(text, text.split(), top, dup, "datatrove")


def test_values_as_worked_out_by_hand() -> None:
    # 4 lines of 3 characters, one a repetition, and 3 line feeds: 1/4 of lines, 3/15 of characters.
    row = repetition(batch_of(["abc\nabc\nxyz\nuvw"]), (), (), Conventions())[0]
    assert row.tolist() == [4, 0.0, 0.0, 0.25, 3 / 15]
    # "a b" three times, 3 characters each with the space, of 11 in all.
    row = repetition(batch_of(["a b a b a b"]), (2,), (), Conventions())[0]
    assert row[-1] == 9 / 11
    # dolma counts both lines of a pair, and divides by the characters of words.
    row = repetition(batch_of(["abc\nabc\nxyz\nuvw"]), (), (), Conventions(dialect="dolma"))[0]
    assert row.tolist()[3:] == [0.5, 6 / 12]


def test_datatrove_compares_n_grams_without_separators() -> None:
    batch = batch_of(["ab c d e f. a bc d e f."])
    assert repetition(batch, (), (5,), Conventions())[0, -1] == 7 / 23
    assert repetition(batch, (), (5,), Conventions(dialect="dolma"))[0, -1] == 0


def test_limits_end_the_work_at_the_first_failure() -> None:
    batch = batch_of(["a b " * 30])
    every = repetition(batch, TOP, DUP, Conventions())[0]
    short = repetition(batch, TOP, DUP, Conventions(), [0] + [1] * 4 + [0.1] * 9)[0]
    assert every[5] == short[5] > 0.1 and every[6] > 0 and not short[6:].any()


def test_a_long_text_outgrows_the_first_table() -> None:
    words = [f"w{i % 70_000}" for i in range(140_000)]
    text = " ".join(words)
    row = repetition(batch_of([text]), (2,), (5,), Conventions(dialect="dolma"))[0]
    assert row.tolist() == repetition_reference(text, words, (2,), (5,), "dolma")
