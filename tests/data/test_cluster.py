from __future__ import annotations

import itertools

import numpy as np

from llmtools.data.cluster import components_reference, link_equal, roots, singletons


def pairs_of_equal(keys: np.ndarray, documents: np.ndarray) -> list[tuple[int, int]]:
    return [
        (int(documents[i]), int(documents[j]))
        for i, j in itertools.combinations(range(len(documents)), 2)
        if (keys[i] == keys[j]).all()
    ]


def test_components_equal_the_reference_for_random_keys() -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 50, 120):
        parents = singletons(size)
        pairs: list[tuple[int, int]] = []
        for width in (1, 2, 1):
            documents = np.flatnonzero(rng.random(size) < 0.8)
            keys = rng.integers(0, max(size // 3, 2), (documents.size, width), dtype=np.uint64)
            link_equal(parents, documents, keys)
            pairs += pairs_of_equal(keys, documents)
        assert roots(parents).tolist() == components_reference(size, pairs)


def test_a_root_is_the_first_document_whatever_the_order_of_keys() -> None:
    links = [(4, 7), (7, 2), (9, 4), (1, 3)]
    expected = components_reference(10, links)
    assert expected == [0, 1, 2, 1, 2, 5, 6, 2, 8, 2]
    for order in itertools.permutations(links):
        parents = singletons(10)
        for pair in order:
            link_equal(parents, np.array(pair), np.zeros(2, np.uint64))
        assert roots(parents).tolist() == expected
