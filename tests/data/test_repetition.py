from __future__ import annotations

import random

from llmtools.data.repetition import repetition, repetition_reference
from text_batches import batch_of

TOP, DUP = (2, 3, 4), (5, 6, 7, 8, 9, 10)


def test_kernel_equals_the_reference() -> None:
    draw = random.Random(2)
    alphabet = "ab \n\n\t\u00a0\u2003\u3000\x85\x1cé한😀"
    texts = ["", " ", "\n", "\n\n\n", "a", "a\n", "\n\na\n\nb\n\na"]
    texts += ["".join(draw.choices(alphabet, k=draw.randrange(200))) for _ in range(1500)]
    texts += [" ".join(draw.choices(["to", "be", "or"], k=draw.randrange(400))) for _ in range(50)]
    found = repetition(batch_of(texts), TOP, DUP)
    for row, text in zip(found, texts, strict=True):
        assert row.tolist() == repetition_reference(text, TOP, DUP), repr(text)


def test_n_grams_may_be_asked_for_in_any_order_and_number() -> None:
    text = "a b a b a b c d c d x y z " * 5
    for top, dup in (((), ()), ((4, 2), (3,)), ((2,), (10, 5))):
        row = repetition(batch_of([text]), top, dup)[0]
        assert row.tolist() == repetition_reference(text, top, dup)


def test_fractions_of_a_text_that_can_be_counted_by_hand() -> None:
    # 4 lines, 1 a duplicate of 3 characters; 15 characters in all.
    row = repetition(batch_of(["abc\nabc\nxyz\nuvw"]), (), ())[0]
    assert row.tolist() == [0.0, 0.0, 1 / 4, 3 / 15]
    # "a b" three times, 3 characters each, in 11 characters.
    row = repetition(batch_of(["a b a b a b"]), (2,), ())[0]
    assert row[4] == 9 / 11
