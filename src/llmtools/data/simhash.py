"""SimHash (Charikar 2002): documents whose 64-bit fingerprints differ in few bits are copies.

Bit b of a fingerprint says whether most of a document's word n-grams, each counted as often as it
occurs, have bit b set in their hash. Words and n-grams are those of MinHash. The defaults are
text-dedup's (64 bits, 3 words, at most 3 bits), and all pairs within the distance are found. A
document of fewer than `n_grams` words is only ever an exact copy. Memory: 24 bytes a document.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmtools.data import cluster
from llmtools.data.batch import Batch
from llmtools.data.cluster import Roots
from llmtools.data.duplicates import digests
from llmtools.data.shingles import shingles
from llmtools.errors import UsageError
from llmtools.jit import kernel

Hashes = npt.NDArray[np.uint64]
MAX_DISTANCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SimHashSettings:
    """n_grams: words in a feature. max_distance: in how many bits copies may differ."""

    n_grams: int = 3
    max_distance: int = 3

    def __post_init__(self) -> None:
        if self.n_grams < 1:
            raise UsageError(f"n_grams is {self.n_grams}; it must be at least 1")
        if not 0 <= self.max_distance <= MAX_DISTANCE:
            raise UsageError(
                f"max_distance is {self.max_distance}; it must be from 0 to {MAX_DISTANCE}:"
                " unrelated documents differ in 32 bits of 64, give or take 4"
            )


class Fingerprints:
    """The fingerprints of documents, and their texts' digests; numbered from `base`."""

    def __init__(self, settings: SimHashSettings, base: int = 0) -> None:
        self.settings = settings
        self.base = base
        self.num_documents = 0
        self._values = [np.empty(0, np.uint64)]
        self._numbers = [np.empty(0, np.int64)]
        self._digests = [np.empty((0, 1), np.uint64)]

    def add(self, batch: Batch) -> None:
        """The next documents."""
        hashes, offsets = shingles(batch, self.settings.n_grams)
        has_features = np.diff(offsets) > 0
        first = self.base + self.num_documents
        self._numbers.append(first + np.flatnonzero(has_features))
        self._values.append(fingerprints(hashes, offsets)[has_features])
        self._digests.append(digests(batch))
        self.num_documents += len(batch.documents)

    def link(self) -> tuple[Roots, Roots]:
        """The first document of each one's cluster, and of those with the same text; (D,) each."""
        parents = cluster.singletons(self.base + self.num_documents)
        everyone = np.arange(self.base, self.base + self.num_documents)
        cluster.link_equal(parents, everyone, np.concatenate(self._digests))
        same_text = cluster.roots(parents)
        values, numbers = np.concatenate(self._values), np.concatenate(self._numbers)
        cluster.link_near(parents, numbers, values, self.settings.max_distance)
        return cluster.roots(parents), same_text


def fingerprints(hashes: Hashes, offsets: npt.NDArray[np.int64]) -> Hashes:
    """(D,) uint64 of the features of D documents: document d has hashes[offsets[d]:offsets[d + 1]].

    A document without features gets zero.
    """
    out = np.empty(offsets.size - 1, np.uint64)
    _fingerprint(hashes, offsets, out)
    return out


@kernel
def _fingerprint(hashes: Hashes, offsets: npt.NDArray[np.int64], out: Hashes) -> None:
    counts = np.zeros(64, np.int64)
    for d in range(out.size):
        counts[:] = 0
        own = hashes[offsets[d] : offsets[d + 1]]
        for i in range(own.size):
            for b in range(64):
                counts[b] += np.int64((own[i] >> np.uint64(b)) & np.uint64(1))
        value = np.uint64(0)
        for b in range(64):
            if 2 * counts[b] > own.size:
                value |= np.uint64(1) << np.uint64(b)
        out[d] = value


def fingerprint_reference(hashes: Iterable[int]) -> int:
    """The fingerprint of one document's features, in plain Python."""
    features = list(hashes)
    return sum(1 << b for b in range(64) if 2 * sum(h >> b & 1 for h in features) > len(features))
