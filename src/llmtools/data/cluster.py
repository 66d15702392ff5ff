"""Connected components of documents that share a key.

Documents are numbered in input order and every component is named by its first document, so the
result does not depend on the order in which keys are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from llmtools.data.jit import kernel

Keys = npt.NDArray[np.uint64]
Roots = npt.NDArray[np.int64]


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
