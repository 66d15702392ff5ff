"""Which documents of a corpus are copies of earlier ones.

Two documents are linked when their texts are equal (xxh3-128) or when they share a MinHash bucket;
each connected component keeps its first document. A document of fewer than `n_grams` words has no
shingles and is only ever an exact copy: "2." and "3." are not near-duplicates, although both are
the one word 0. Held in memory per document: a key of 8 bytes per bucket and a digest of 16.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from llmtools.data import cluster
from llmtools.data.batch import Batch
from llmtools.data.minhash import MinHashSettings, bucket_keys, shingles, signatures


@dataclass(frozen=True, slots=True)
class Clusters:
    """Arrays over the D documents, in input order.

    root:     (D,) int64, the document that survives of each one's cluster (itself, if it does).
    size:     (D,) int64, how many documents the cluster has.
    is_exact: (D,) bool, there is an earlier document with the same text.
    """

    root: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    is_exact: npt.NDArray[np.bool_]

    @property
    def is_kept(self) -> npt.NDArray[np.bool_]:
        kept: npt.NDArray[np.bool_] = self.root == np.arange(self.root.size)
        return kept

    def counts(self) -> dict[str, int]:
        """documents_in, documents_kept, dropped by reason, clusters of two or more."""
        dropped = ~self.is_kept
        exact = int((dropped & self.is_exact).sum())
        return {
            "documents_in": self.root.size,
            "documents_kept": int(self.is_kept.sum()),
            "dropped_exact": exact,
            "dropped_near": int(dropped.sum()) - exact,
            "clusters": int((self.is_kept & (self.size > 1)).sum()),
        }


def find_duplicates(batches: Iterable[Batch], settings: MinHashSettings) -> Clusters:
    """Read all documents once and cluster the duplicates."""
    all_keys = [np.empty((0, settings.num_buckets), np.uint64)]
    all_digests = [np.empty((0, 2), np.uint64)]
    all_lengths = [np.empty(0, np.int64)]
    for batch in batches:
        hashes, offsets = shingles(batch, settings.n_grams)
        all_keys.append(bucket_keys(signatures(hashes, offsets, settings), settings))
        all_digests.append(_digests(batch))
        all_lengths.append(np.diff(offsets))
    has_shingles = np.flatnonzero(np.concatenate(all_lengths))
    parents = cluster.singletons(sum(map(len, all_lengths)))
    cluster.link_equal(parents, np.arange(parents.size), np.concatenate(all_digests))
    is_exact = cluster.roots(parents) != np.arange(parents.size)
    for bucket in range(settings.num_buckets):
        # One bucket at a time: all keys in one array would be a second copy of most memory used.
        column = np.concatenate([keys[:, bucket] for keys in all_keys])
        cluster.link_equal(parents, has_shingles, column[has_shingles])
    root = cluster.roots(parents)
    return Clusters(root, np.bincount(root, minlength=root.size)[root], is_exact)


def _digests(batch: Batch) -> npt.NDArray[np.uint64]:
    """xxh3-128 of each text, (D, 2) uint64."""
    digests = [
        xxhash.xxh3_128_digest(batch.buffer[start:stop].data)
        for start, stop in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)
    ]
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
