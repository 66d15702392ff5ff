from __future__ import annotations

import numpy as np
import pytest

from llmtools.data import key_set
from llmtools.data.key_set import KeySet, new_keys_reference
from llmtools.errors import ResourceError


def random_keys(rng: np.random.Generator, count: int, distinct: int) -> np.ndarray:
    """Keys of which many come again; `distinct` of 5 makes them share slots, too."""
    if distinct > 5:
        return rng.integers(0, 2**64, (distinct, 2), dtype=np.uint64)[
            rng.integers(0, distinct, count)
        ]
    keys = rng.integers(1, distinct + 1, (count, 2), dtype=np.uint64)
    keys[:, 0] <<= np.uint64(33)
    return keys


@pytest.mark.parametrize("distinct", [1, 5, 700, 5000])
@pytest.mark.parametrize("batch", [1, 7, 4000])
def test_first_values_equal_those_of_a_dictionary(distinct: int, batch: int) -> None:
    keys = random_keys(np.random.default_rng(distinct), 4000, distinct)
    seen = KeySet(has_values=True, num_slots=4)
    firsts: list[int] = []
    is_new: list[bool] = []
    for start in range(0, len(keys), batch):
        rows = np.arange(start, min(start + batch, len(keys)), dtype=np.uint64)
        new, values = seen.add(keys[rows], rows)
        firsts += values.tolist()
        is_new += new.tolist()
    expected = list(new_keys_reference(map(tuple, keys.tolist())))
    assert firsts == expected
    assert is_new == [row == first for row, first in enumerate(expected)]
    assert seen.size == len(set(expected))


def test_keys_that_share_one_word_are_different() -> None:
    keys = np.array([[1, 2], [1, 3], [2, 2], [1, 2]], np.uint64)
    assert KeySet().add(keys)[0].tolist() == [True, True, True, False]


def test_no_keys_are_no_news() -> None:
    assert KeySet().add(np.empty((0, 2), np.uint64))[0].size == 0


def test_a_set_that_cannot_grow_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_set, "MAX_SLOTS", 64)
    seen = KeySet(num_slots=64)
    keys = np.random.default_rng(0).integers(0, 2**64, (100, 2), dtype=np.uint64)
    with pytest.raises(ResourceError, match="distinct keys"):
        seen.add(keys)
