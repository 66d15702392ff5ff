"""Which documents of a corpus are copies of earlier ones.

Two documents are linked when their texts are equal (xxh3, 64 bits) or when they share a MinHash
bucket; each connected component keeps one document. A document without shingles (fewer words than
an n-gram has) is only ever an exact copy: "2." and "3." are not near-duplicates, although both are
the one word 0.

Memory per document: 8 bytes a bucket and 24 more, until `memory` makes them spill; then 16.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt
import xxhash

from llmtools.data import cluster
from llmtools.data.bands import Bands
from llmtools.data.batch import Batch
from llmtools.data.cluster import Roots
from llmtools.data.minhash import MinHashSettings, sign
from llmtools.errors import UsageError

# What the process itself takes with its kernels loaded, and the least that leaves room for work.
PROCESS_BYTES = 160 << 20
LEAST_MEMORY = 256 << 20


@dataclass(frozen=True, slots=True)
class Clusters:
    """Arrays over the D documents, in input order, which are numbered from `base`.

    root:     (D,) integers, the document that survives of each one's cluster (itself, if it does);
              below `base` it is one of an index.
    is_exact: (D,) bool, a dropped document whose text the survivor or an earlier document has.
    """

    root: Roots
    is_exact: npt.NDArray[np.bool_]
    base: int = 0

    @property
    def is_kept(self) -> npt.NDArray[np.bool_]:
        kept: npt.NDArray[np.bool_] = self.root == np.arange(self.base, self.base + self.root.size)
        return kept

    @property
    def size(self) -> npt.NDArray[np.int64]:
        """(D,) how many documents, without those of an index, each one's cluster has."""
        sizes: npt.NDArray[np.int64] = np.bincount(self.root)[self.root]
        return sizes

    def counts(self) -> dict[str, int]:
        """documents_in, documents_kept, dropped by reason, clusters of two or more."""
        dropped = ~self.is_kept
        exact = int((dropped & self.is_exact).sum())
        return {
            "documents_in": self.root.size,
            "documents_kept": self.root.size - int(dropped.sum()),
            "dropped_exact": exact,
            "dropped_near": int(dropped.sum()) - exact,
            "clusters": np.unique(self.root[dropped]).size,
        }


class Signatures:
    """The keys of documents: MinHash buckets, and the text itself.

    memory: bytes that the whole process may take; None for no limit. base: the number of the first
    document that is added.
    """

    def __init__(self, settings: MinHashSettings, memory: int | None = None, base: int = 0) -> None:
        if memory is not None and memory < LEAST_MEMORY:
            raise UsageError(
                f"memory of {memory:,} bytes is too little; dedup works with"
                f" {LEAST_MEMORY >> 20}M or more"
            )
        free = None if memory is None else memory - PROCESS_BYTES
        self.settings = settings
        self.near = Bands(settings.num_buckets, None if free is None else free * 2 // 5)
        self.exact = Bands(1, None if free is None else free // 20)
        self.base = base
        self.num_documents = 0

    def __enter__(self) -> Signatures:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.near.__exit__(kind, fault, trace)
        self.exact.__exit__(kind, fault, trace)

    def add(self, batch: Batch) -> None:
        """The next documents."""
        first = self.base + self.num_documents
        numbers = np.arange(first, first + len(batch.documents))
        keys, has_shingles = sign(batch, self.settings)
        self.near.add(numbers[has_shingles], keys[has_shingles])
        self.exact.add(numbers, digests(batch))
        self.num_documents += len(batch.documents)

    def link(self) -> tuple[Roots, Roots]:
        """The first document of each one's cluster, and of those with the same text; (D,) each.

        D counts from document 0, those below `base` too.
        """
        parents = cluster.singletons(self.base + self.num_documents)
        for documents, keys in self.exact.chunks(0):
            cluster.link_equal(parents, documents, keys)
        same_text = cluster.roots(parents)
        for bucket in range(self.near.num_bands):
            for documents, keys in self.near.chunks(bucket):
                cluster.link_equal(parents, documents, keys)
        return cluster.roots(parents), same_text


def digests(batch: Batch) -> npt.NDArray[np.uint64]:
    """xxh3-64 of each text, (D, 1)."""
    found = [
        xxhash.xxh3_64_intdigest(batch.buffer[start:stop].data)
        for start, stop in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)
    ]
    return np.array(found, np.uint64).reshape(-1, 1)


def as_clusters(
    root: Roots,
    same_text: Roots,
    *,
    values: npt.NDArray[np.float64] | None = None,
    base: int = 0,
) -> Clusters:
    """Clusters of the documents from `base` on, of arrays over all.

    The first document of a cluster survives, or the one of the largest value, (D,); one below
    `base` in any case.
    """
    if values is not None:
        root = cluster.elect(root, np.r_[np.full(base, np.inf), values])
    numbers = np.arange(root.size)
    has_its_text = (same_text == same_text[root]) | (same_text != numbers)
    return Clusters(root[base:], (has_its_text & (root != numbers))[base:], base)


def find_duplicates(
    batches: Iterable[Batch], settings: MinHashSettings, memory: int | None = None
) -> Clusters:
    """Read all documents once and cluster the duplicates; the first of each cluster survives."""
    with Signatures(settings, memory) as signatures:
        for batch in batches:
            signatures.add(batch)
        return as_clusters(*signatures.link())
