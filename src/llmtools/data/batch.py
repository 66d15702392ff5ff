"""Documents in batches, their texts in one buffer, for kernels that work on bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.formats.record import Document

BATCH_BYTES = 1 << 20
# Bytes behind the texts that kernels may read, which take 64 at a time.
PADDING = 128


@dataclass(frozen=True, slots=True)
class Batch:
    """Some documents and their texts, concatenated as UTF-8.

    buffer:  (T,) uint8, the texts without separators; PADDING more bytes are there to be read.
    offsets: (D + 1,) int64; the text of document d is buffer[offsets[d] : offsets[d + 1]].
    memo:    what was derived from the texts and several rules look at.
    """

    documents: list[Document]
    buffer: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def text(self, row: int) -> memoryview:
        """The text of one document, UTF-8."""
        return self.buffer[self.offsets[row] : self.offsets[row + 1]].data

    def take(self, rows: Sequence[int], texts: Mapping[int, bytes] | None = None) -> Batch:
        """A batch of some of the documents, in the order given, with other `texts` for some rows.

        Only the buffer holds a changed text; the documents are the same objects.
        """
        found = texts or {}
        return make_batch(
            [self.documents[row] for row in rows],
            [found[row] if row in found else self.text(row) for row in rows],
        )


def make_batch(documents: list[Document], texts: Sequence[bytes | memoryview]) -> Batch:
    """A batch of documents whose encoded texts are given."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(t) for t in texts], out=offsets[1:])
    data = np.frombuffer(b"".join([*texts, bytes(PADDING)]), np.uint8)
    return Batch(documents, data[:-PADDING], offsets)


def batches(documents: Iterable[Document], batch_bytes: int = BATCH_BYTES) -> Iterator[Batch]:
    """Group documents until their texts reach `batch_bytes`; a longer text is a batch of its own.

    One kernel call for many documents: a call costs microseconds, which is what a short document
    costs too.
    """
    held: list[Document] = []
    texts: list[bytes] = []
    num_bytes = 0
    for document in documents:
        text = document.encoded
        if held and num_bytes + len(text) > batch_bytes:
            yield make_batch(held, texts)
            held, texts, num_bytes = [], [], 0
        held.append(document)
        texts.append(text)
        num_bytes += len(text)
    if held:
        yield make_batch(held, texts)
