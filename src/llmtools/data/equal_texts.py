"""Clusters of documents with equal texts, where another than the first may survive.

`llm dedup --method exact` streams (exact.py) as long as the first document of each text stays and
nothing is added to it. With `--keep` or `--cluster-ids` all texts must be known before the first
document is written: then it is two readings, as for the other methods that cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import xxhash

from llmtools.data.batch import Batch
from llmtools.data.cluster import Roots
from llmtools.data.key_set import KeySet


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualTextSettings:
    """digest: what stands for a text, of its UTF-8; see exact.py for the odds of a mistake."""

    digest: Literal["xxh3-128"] = "xxh3-128"


class EqualTexts:
    """Which documents have the text of which earlier one; numbered from `base`.

    Memory: 32 to 64 bytes a distinct text and 8 a document.
    """

    def __init__(self, base: int = 0) -> None:
        self.base = base
        self.num_documents = 0
        self._seen = KeySet(has_values=True)
        self._roots: list[Roots] = []

    def add(self, batch: Batch) -> None:
        """The next documents."""
        digest = xxhash.xxh3_128_digest
        offsets = zip(batch.offsets[:-1], batch.offsets[1:], strict=True)
        joined = b"".join([digest(batch.buffer[start:stop].data) for start, stop in offsets])
        keys = np.frombuffer(joined, np.uint64).reshape(-1, 2)
        first = self.base + self.num_documents
        _, roots = self._seen.add(keys, np.arange(first, first + len(keys), dtype=np.uint64))
        self._roots.append(roots.astype(np.int64))
        self.num_documents += len(keys)

    def link(self) -> tuple[Roots, Roots]:
        """The first document of each one's text, twice: near copies are none; (D,) each."""
        root = np.concatenate([np.arange(self.base), *self._roots])
        return root, root.copy()
