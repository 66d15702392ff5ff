"""Connected components of documents that share a key.

Documents are numbered in input order and every component is named by its first document, so the
result does not depend on the order in which keys are looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from llmtools.data.jit import kernel

Keys = npt.NDArray[np.uint64]
Roots = npt.NDArray[np.int64]

# How many values may agree in the compared blocks, on average, before more blocks are taken.
NEAR_GROUP = 16


def singletons(num_documents: int) -> Roots:
    """A forest in which every document is its own root."""
    return np.arange(num_documents, dtype=np.int64)


def link_equal(parents: Roots, documents: Roots, keys: Keys) -> None:
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


def roots(parents: Roots) -> Roots:
    """The first document of each document's component, (D,) int64."""
    out = np.empty_like(parents)
    _flatten(parents, out)
    return out


@kernel
def _find(parents: Roots, x: int) -> int:
    while parents[x] != x:
        # Path halving keeps the trees flat without a second walk.
        parents[x] = parents[parents[x]]
        x = parents[x]
    return x


@kernel
def _link(parents: Roots, documents: Roots, columns: Keys, order: Roots) -> None:
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


@kernel
def _flatten(parents: Roots, out: Roots) -> None:
    for x in range(parents.size):
        out[x] = _find(parents, x)


def components_reference(num_documents: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The first document of each component of a graph, in plain Python."""
    root = list(range(num_documents))
    for x, y in pairs:
        low, high = sorted((root[x], root[y]))
        root = [low if r == high else r for r in root]
    return root
