"""Batches of plain texts, for tests of what works on batches."""

from __future__ import annotations

from collections.abc import Sequence

from llmtools.data.batch import Batch, make_batch
from llmtools.formats.record import Document


def batch_of(texts: Sequence[str]) -> Batch:
    documents = [
        Document(b"", {}, "test", line, str(line), text) for line, text in enumerate(texts, 1)
    ]
    return make_batch(documents, [text.encode() for text in texts])
