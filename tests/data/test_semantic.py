from __future__ import annotations

import numpy as np
import pytest

from llmtools.data.semantic import SemanticSettings, similar_pairs
from llmtools.errors import UsageError


def found_pairs(vectors: np.ndarray, **settings: float) -> set[tuple[int, int]]:
    arrays = list(similar_pairs(vectors, SemanticSettings(path="v", **settings)))  # type: ignore[arg-type]
    return {(int(i), int(j)) for pairs in arrays for i, j in pairs}


def test_one_cluster_finds_the_pairs_of_brute_force_and_more_find_no_others() -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(60, 8)), 3, axis=0) + rng.normal(size=(180, 8)) * 0.1
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for similarity in (0.9, 0.99):
        near = np.argwhere(np.triu(units @ units.T >= similarity, 1))
        expected = {(int(i), int(j)) for i, j in near}
        assert found_pairs(vectors, similarity=similarity, num_clusters=1) == expected
        some = found_pairs(vectors * 1e-20, similarity=similarity)
        assert some < expected or some == expected
        assert len(some) > len(expected) / 2


def test_a_similarity_that_no_cosine_has_is_refused() -> None:
    with pytest.raises(UsageError, match="at most 1"):
        SemanticSettings(path="v", similarity=1.5)
