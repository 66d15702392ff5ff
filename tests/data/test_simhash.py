from __future__ import annotations

import itertools

import numpy as np
import pytest

from llmtools.data import cluster
from llmtools.data.cluster import components_reference, link_near, roots, singletons
from llmtools.data.shingles import shingles_reference
from llmtools.data.simhash import Fingerprints, SimHashSettings, fingerprint_reference, fingerprints
from llmtools.errors import UsageError
from text_batches import batch_of

TEXT = " ".join(f"word{n % 90} of{n % 7} a{n % 13} text" for n in range(200))


def near_values(rng: np.random.Generator, size: int) -> np.ndarray:
    """Random values and, of each, some that differ in up to six bits."""
    values = rng.integers(0, 2**63, size, dtype=np.uint64)
    copies = [values]
    for flips in range(7):
        changed = values.copy()
        for _ in range(flips):
            changed ^= np.uint64(1) << rng.integers(0, 64, size, dtype=np.uint64)
        copies.append(changed)
    out = np.concatenate(copies)
    rng.shuffle(out)
    return out


def pairs_within(values: np.ndarray, distance: int) -> list[tuple[int, int]]:
    numbers = [int(v) for v in values]
    return [
        (i, j)
        for i, j in itertools.combinations(range(len(numbers)), 2)
        if (numbers[i] ^ numbers[j]).bit_count() <= distance
    ]


@pytest.mark.parametrize("distance", [0, 1, 3, 5])
@pytest.mark.parametrize("group", [16, 0])
def test_all_pairs_within_the_distance_are_linked(
    distance: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a group of 0 the most blocks are taken that ever are.
    monkeypatch.setattr(cluster, "NEAR_GROUP", group)
    values = near_values(np.random.default_rng(distance), 40)
    parents = singletons(values.size)
    link_near(parents, np.arange(values.size), values, distance)
    expected = components_reference(values.size, pairs_within(values, distance))
    assert roots(parents).tolist() == expected
    # The values have pairs one bit further off: a search that took those too would differ.
    assert components_reference(values.size, pairs_within(values, distance + 1)) != expected


def test_fingerprints_equal_the_reference() -> None:
    rng = np.random.default_rng(0)
    sizes = [0, 1, 2, 3, 50]
    hashes = rng.integers(0, 2**64, sum(sizes), dtype=np.uint64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    expected = [
        fingerprint_reference(map(int, hashes[a:b])) for a, b in itertools.pairwise(offsets)
    ]
    assert fingerprints(hashes, offsets).tolist() == expected
    of_a_text = fingerprint_reference(shingles_reference(TEXT, 3))
    other = fingerprint_reference(shingles_reference(TEXT.replace("word1 ", "else "), 3))
    assert of_a_text.bit_count() > 8
    assert (of_a_text ^ other).bit_count() < 16


def test_copies_with_another_case_are_near_and_short_documents_only_exact() -> None:
    texts = [TEXT, "two words", TEXT.upper(), "Two words", "two words", TEXT, "other words at all"]
    found = Fingerprints(SimHashSettings())
    found.add(batch_of(texts[:3]))
    found.add(batch_of(texts[3:]))
    root, same_text = found.link()
    assert root.tolist() == [0, 1, 0, 3, 1, 0, 6]
    assert same_text.tolist() == [0, 1, 2, 3, 1, 0, 6]


def test_no_documents_make_no_clusters() -> None:
    assert Fingerprints(SimHashSettings()).link()[0].size == 0


def test_a_distance_at_which_everything_is_a_copy_is_refused() -> None:
    with pytest.raises(UsageError, match="from 0 to 16"):
        SimHashSettings(max_distance=17)
