from __future__ import annotations

import random

import numpy as np
import pytest

from llmtools.data.substring import SubstringFinder, SubstringSettings, copies_reference
from llmtools.errors import UsageError


def cut_out(texts: list[str], min_bytes: int) -> list[list[bool]]:
    """Which characters of each text are cut out; the texts come in two parts both times."""
    finder = SubstringFinder(SubstringSettings(min_bytes=min_bytes))
    middle = len(texts) // 2
    finder.learn(texts[:middle])
    finder.learn(texts[middle:])
    out = []
    for text, spans in zip(texts, finder.spans(texts[:1]) + finder.spans(texts[1:]), strict=True):
        is_cut = [False] * len(text)
        for start, stop in spans.tolist():
            assert start < stop
            is_cut[start:stop] = [True] * (stop - start)
        out.append(is_cut)
    return out


def expected(texts: list[str], min_bytes: int) -> list[list[bool]]:
    out = []
    encoded = [text.encode() for text in texts]
    for text, of_bytes in zip(texts, copies_reference(encoded, min_bytes), strict=True):
        edges = np.cumsum([0, *(len(c.encode()) for c in text)])
        out.append([of_bytes[i] for i in edges[:-1]])
    return out


def random_corpus(chance: random.Random, min_bytes: int) -> list[str]:
    letters = chance.choice(["a", "ab", "abc", "aé", "ab漢é", "abcdefgh"])

    def text(size: int) -> str:
        return "".join(chance.choice(letters) for _ in range(size))

    texts = [text(chance.choice([0, 1, min_bytes, 20, 60])) for _ in range(chance.randrange(1, 6))]
    if chance.random() < 0.5:
        texts += [texts[0][3:] + "x" + texts[0][:-2], text(2) * 30, text(40)]
    return texts


def test_what_is_cut_out_equals_the_search_by_brute_force() -> None:
    chance = random.Random(1)
    differs = 0
    for _ in range(600):
        min_bytes = chance.choice([1, 2, 3, 4, 5, 7, 10, 16])
        texts = random_corpus(chance, min_bytes)
        found = cut_out(texts, min_bytes)
        assert found == expected(texts, min_bytes), (min_bytes, texts)
        differs += found != expected(texts, min_bytes + 1)
    # One byte more or less is told apart.
    assert differs > 200


def test_documents_are_never_joined() -> None:
    assert cut_out(["abcd", "efgh", "abcdefgh"], 5)[2] == [False] * 8


def test_of_a_repeated_character_the_first_window_stays() -> None:
    text = "a" * 3_000_000
    finder = SubstringFinder(SubstringSettings())
    finder.learn([text, text])
    first, second = finder.spans([text, text])
    assert first.tolist() == [[100, len(text)]]
    assert second.tolist() == [[0, len(text)]]


def test_half_a_character_is_not_cut_out() -> None:
    # The byte strings that repeat begin and end within characters: é is C3 A9, è is C3 A8.
    texts = ["xéabcdè", "yéabcdé"]
    assert cut_out(texts, 7)[1] == [False, True, True, True, True, True, False]


def test_colliding_hashes_are_compared_byte_by_byte() -> None:
    # Thue and Morse's sequence and its opposite have the same polynomial hash modulo 2^64.
    bits = [bin(n).count("1") % 2 for n in range(4096)]
    one, other = ("".join("ab"[b ^ flip] for b in bits) for flip in (0, 1))
    texts = [one, other]
    assert cut_out(texts, 4096) == expected(texts, 4096)
    assert not any(cut_out(texts, 4096)[1])
    assert all(cut_out([one, one], 4096)[1])


def test_a_length_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        SubstringSettings(min_bytes=0)
