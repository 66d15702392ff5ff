from __future__ import annotations

import itertools

from llmtools.data.batch import batches
from llmtools.formats.record import Document


def documents(texts: list[str]) -> list[Document]:
    return [Document(b"", {}, "test", i, str(i), text) for i, text in enumerate(texts)]


def test_batches_keep_every_text_in_order() -> None:
    texts = ["", "one", "é" * 7, "x" * 50, "", "two"]
    found = []
    for batch in batches(documents(texts), batch_bytes=10):
        data = batch.buffer.tobytes()
        bounds = batch.offsets.tolist()
        found += [data[a:b].decode() for a, b in itertools.pairwise(bounds)]
        assert len(batch.documents) == len(bounds) - 1
    assert found == texts


def test_a_batch_exceeds_its_size_only_for_a_single_text() -> None:
    for batch in batches(documents(["a" * n for n in (3, 4, 5, 30, 1, 2)]), batch_bytes=10):
        assert batch.buffer.size <= 10 or len(batch.documents) == 1


def test_no_documents_make_no_batch() -> None:
    assert list(batches([])) == []
