"""Connected components of documents that share a key.

Documents are numbered in input order and every component is named by its first document, so the
result does not depend on the order in which keys are looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.jit import kernel

Keys = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
# int32 or int64, whichever holds the number of documents.
Roots = npt.NDArray[Any]

# How many values may agree in the compared blocks, on average, before more blocks are taken.
NEAR_GROUP = 16


def singletons(num_documents: int) -> Roots:
    """A forest in which every document is its own root."""
    return np.arange(num_documents, dtype=np.int32 if num_documents < 1 << 31 else np.int64)


def link_equal(parents: Roots, documents: Numbers, keys: Keys) -> None:
    """Join, in `parents`, all documents whose keys are equal.

    documents: (n,) int64, which documents the rows of `keys` belong to.
    keys:      (n,) or (n, k) uint64; rows of k words are equal when all words are.
    """
    columns = np.atleast_2d(np.ascontiguousarray(keys.T))
    order = np.argsort(columns[0]) if len(columns) == 1 else np.lexsort(columns)
    _link(parents, documents, columns, order)


def link_near(parents: Roots, documents: Roots, values: Keys, max_distance: int) -> None:
    """Join, in `parents`, all documents whose 64-bit values differ in at most `max_distance` bits.

    documents: (n,), which documents the values belong to. Exact (Manku, Jain and Das Sarma 2007):
    of B blocks of bits at least B - max_distance are equal in such a pair, so each choice of so
    many blocks is compared once, and only values that agree in them. Two to three times as many
    blocks cost more passes and far fewer comparisons; the result is the same.
    """
    link_equal(parents, documents, values)
    first = np.unique(values, return_index=True)[1]
    documents, values = documents[first], values[first]
    for mask in _masks(len(values), max_distance):
        keys = values & np.uint64(mask)
        order = np.argsort(keys)
        _link_near(parents, documents, keys, values, order, max_distance)


def _masks(num_values: int, max_distance: int) -> list[int]:
    """The choices of blocks, each as a mask of 64 bits."""
    for num_blocks in range(max_distance + 1, max_distance + 4):
        num_equal = num_blocks - max_distance
        if num_values >> (64 * num_equal // num_blocks) < NEAR_GROUP:
            break
    edges = [64 * i // num_blocks for i in range(num_blocks + 1)]
    blocks = [(1 << b) - (1 << a) for a, b in itertools.pairwise(edges)]
    return [sum(chosen) for chosen in itertools.combinations(blocks, num_equal)]


def link_pairs(parents: Roots, pairs: npt.NDArray[Any]) -> None:
    """Join the two documents of each row of (n, 2)."""
    _link_pairs(parents, pairs)


def equal_pairs(documents: Numbers, keys: Keys) -> Numbers:
    """Pairs (m, 2), as few as connect all documents (n,) whose keys (n,) are equal."""
    order = np.argsort(keys, kind="stable")
    is_equal = keys[order[1:]] == keys[order[:-1]]
    return np.stack([documents[order[:-1]][is_equal], documents[order[1:]][is_equal]], axis=1)


def roots(parents: Roots) -> Roots:
    """The first document of each document's component, (D,)."""
    out = np.empty_like(parents)
    _flatten(parents, out)
    return out


def elect(root: Roots, values: npt.NDArray[np.float64]) -> Roots:
    """The document of the largest value of each one's component, the first if there are several."""
    best = root.copy()
    _elect(root, values, best)
    return best[root]


@kernel
def _find(parents: Roots, x: int) -> int:
    while parents[x] != x:
        # Path halving keeps the trees flat without a second walk.
        parents[x] = parents[parents[x]]
        x = parents[x]
    return x


@kernel
def _link(parents: Roots, documents: Numbers, columns: Keys, order: Numbers) -> None:
    for i in range(1, order.size):
        is_equal = True
        for k in range(columns.shape[0]):
            is_equal = is_equal and columns[k, order[i - 1]] == columns[k, order[i]]
        if is_equal:
            x = _find(parents, documents[order[i - 1]])
            y = _find(parents, documents[order[i]])
            # The smaller number wins, so that a root is always the first of its component.
            parents[max(x, y)] = min(x, y)


@kernel
def _link_near(
    parents: Roots,
    documents: Roots,
    keys: Keys,
    values: Keys,
    order: Roots,
    max_distance: int,
) -> None:
    for i in range(order.size):
        for j in range(i + 1, order.size):
            if keys[order[i]] != keys[order[j]]:
                break
            # The bits in which they differ, counted by clearing the lowest until too many were set.
            bits = values[order[i]] ^ values[order[j]]
            distance = 0
            while bits != 0 and distance <= max_distance:
                bits &= bits - np.uint64(1)
                distance += 1
            if distance <= max_distance:
                x = _find(parents, documents[order[i]])
                y = _find(parents, documents[order[j]])
                parents[max(x, y)] = min(x, y)


def _link_pairs(parents: Roots, pairs: Numbers) -> None:
    for i in range(len(pairs)):
        x = _find(parents, pairs[i, 0])
        y = _find(parents, pairs[i, 1])
        parents[max(x, y)] = min(x, y)


@kernel
def _flatten(parents: Roots, out: Roots) -> None:
    for x in range(parents.size):
        out[x] = _find(parents, x)


@kernel
def _elect(root: Roots, values: npt.NDArray[np.float64], best: Roots) -> None:
    for x in range(root.size):
        if values[x] > values[best[root[x]]]:
            best[root[x]] = x


def components_reference(num_documents: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The first document of each component of a graph, in plain Python."""
    root = list(range(num_documents))
    for x, y in pairs:
        low, high = sorted((root[x], root[y]))
        root = [low if r == high else r for r in root]
    return root
