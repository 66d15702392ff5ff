"""Semantic deduplication (SemDeDup: Abbas et al. 2023) on vectors that are given.

k-means puts like vectors together, and within a cluster two documents of at least `similarity` are
linked; each connected component keeps one document (SemDeDup keeps each that is unlike all before
it in its cluster, which may be several of a chain). Pairs in different k-means clusters are not
seen: fewer clusters find more and cost more, N^2 / num_clusters products in all.

The default number of clusters is the square root of the number of documents; SemDeDup's own
experiments have 880 to 50,000 vectors a cluster. Memory: 16 bytes a document, 256 vectors a
cluster for training, and the vectors of the largest cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.data import cluster
from llmtools.data.batch import Batch
from llmtools.data.cluster import Roots
from llmtools.data.duplicates import digests
from llmtools.errors import InputError, UsageError
from llmtools.formats.vectors import open_vectors

Floats = npt.NDArray[np.float32]

# Vectors that are normalised and compared at once.
CHUNK = 4096
SAMPLES_PER_CLUSTER = 256
ITERATIONS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticSettings:
    """path: the vectors. similarity: cosine from which two are copies. num_clusters: 0 for sqrt(N).

    seed: of the sample that k-means starts from.
    """

    path: str
    similarity: float = 0.95
    num_clusters: int = 0
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.similarity <= 1:
            raise UsageError(f"similarity is {self.similarity}; it must be above 0 and at most 1")
        if self.num_clusters < 0:
            raise UsageError(f"num_clusters is {self.num_clusters}; it must be at least 0")


class Meanings:
    """The vectors of documents, and their texts' digests."""

    base = 0

    def __init__(self, settings: SemanticSettings) -> None:
        self.settings = settings
        self.num_documents = 0
        self._vectors = open_vectors(Path(settings.path))
        self._digests = [np.empty((0, 1), np.uint64)]

    def add(self, batch: Batch) -> None:
        """The next documents."""
        self._digests.append(digests(batch))
        self.num_documents += len(batch.documents)

    def link(self) -> tuple[Roots, Roots]:
        """The first document of each one's cluster, and of those with the same text; (D,) each.

        Raises InputError where there is not one vector for each document, or one has no direction.
        """
        count = len(self._vectors)
        if count != self.num_documents:
            raise InputError(
                f"{self.settings.path}: {count:,} vectors for {self.num_documents:,} documents; one"
                " row for each document is needed, in their order"
            )
        parents = cluster.singletons(count)
        cluster.link_equal(parents, np.arange(count), np.concatenate(self._digests))
        same_text = cluster.roots(parents)
        for pairs in similar_pairs(self._vectors, self.settings):
            # Both ends of a pair get its number as their key.
            names = np.repeat(np.arange(len(pairs), dtype=np.uint64), 2)
            cluster.link_equal(parents, pairs.reshape(-1), names)
        return cluster.roots(parents), same_text


def similar_pairs(
    vectors: npt.NDArray[Any], settings: SemanticSettings
) -> Iterator[npt.NDArray[np.int64]]:
    """Arrays of pairs, (n, 2): an earlier and a later vector of one k-means cluster."""
    assigned = _assign(vectors, _centroids(vectors, settings), settings.path)
    order = np.argsort(assigned, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(assigned[order])) + 1)
    # Equal vectors of float32 numbers may have a product just below 1.
    least = np.float32(settings.similarity - 1e-6)
    for group in groups:
        for start in range(0, len(group), CHUNK):
            rows = group[start : start + CHUNK]
            units = _units(vectors, rows, settings.path)
            for other in range(0, start + 1, CHUNK):
                columns = group[other : other + CHUNK]
                earlier = units if other == start else _units(vectors, columns, settings.path)
                is_near = units @ earlier.T >= least
                i, j = np.nonzero(is_near)
                is_before = columns[j] < rows[i]
                yield np.stack([columns[j], rows[i]], axis=1)[is_before]


def _centroids(vectors: npt.NDArray[Any], settings: SemanticSettings) -> Floats:
    """Spherical k-means on a sample, (k, dim) of length 1."""
    count = len(vectors)
    wanted = min(settings.num_clusters or round(count**0.5), count)
    draw = np.random.default_rng(settings.seed)
    size = min(count, SAMPLES_PER_CLUSTER * wanted)
    sample = _units(vectors, np.sort(draw.choice(count, size, replace=False)), settings.path)
    centroids = sample[draw.choice(size, wanted, replace=False)]
    for _ in range(ITERATIONS):
        nearest = _nearest(sample, centroids)
        sums = np.zeros_like(centroids)
        np.add.at(sums, nearest, sample)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        # A centroid without vectors stays where it is.
        moved = np.where(lengths > 0, sums / np.maximum(lengths, np.float32(1e-30)), centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids


def _assign(vectors: npt.NDArray[Any], centroids: Floats, path: str) -> npt.NDArray[np.int64]:
    """The nearest centroid of each vector."""
    parts = []
    for start in range(0, len(vectors), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(vectors)))
        parts.append(_nearest(_units(vectors, rows, path), centroids))
    return np.concatenate(parts)


def _nearest(units: Floats, centroids: Floats) -> npt.NDArray[np.int64]:
    parts = [
        (units[start : start + CHUNK] @ centroids.T).argmax(axis=1)
        for start in range(0, len(units), CHUNK)
    ]
    return np.concatenate(parts)


def _units(vectors: npt.NDArray[Any], rows: npt.NDArray[np.int64], path: str) -> Floats:
    """Some vectors, scaled to length 1; raises InputError for one without a direction."""
    wide = np.asarray(vectors[rows], np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True)
    has_none = ~np.isfinite(largest) | (largest == 0)
    if has_none.any():
        row = int(rows[np.flatnonzero(has_none)[0]])
        what = "only zeros" if not wide[has_none[:, 0]][0].any() else "a NaN or an infinity"
        raise InputError(f"{path}: row {row} holds {what}; it has no direction")
    wide /= largest
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return wide.astype(np.float32)
