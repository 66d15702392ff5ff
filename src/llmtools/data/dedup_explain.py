"""Why one document was dropped: the document that stayed instead, and what both share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from llmtools.data.batch import batches
from llmtools.data.dedup import DedupSettings, Gathered, cluster_documents, open_indexes
from llmtools.data.dedup_index import Stored, all_names, attach_all
from llmtools.data.duplicates import Signatures
from llmtools.data.minhash import MinHashSettings
from llmtools.data.shingles import words
from llmtools.errors import InputError, did_you_mean
from llmtools.formats.replay import Replay
from llmtools.formats.skips import OnError, Skips
from llmtools.formats.stream import names_of

SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A document, its cluster's survivor, and what they share.

    index: the one that holds the survivor; then nothing is known of what both share, as it holds no
    texts. jaccard: of their n-grams as the signatures see them; where it is low, other documents
    link the two. shared: the first of the common n-grams.
    """

    id: str
    kept: str
    is_kept: bool
    is_exact: bool
    cluster_size: int
    index: str | None = None
    jaccard: float | None = None
    shared_shingles: int | None = None
    shared: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).__dataclass_fields__}


def explain(
    inputs: list[str],
    document_id: str,
    settings: DedupSettings,
    *,
    indexes: Sequence[str] = (),
    on_error: OnError = "fail",
) -> Explanation:
    """Cluster the documents and look at one; raises InputError where no document has this id."""
    stored = open_indexes(indexes, settings)
    base = sum(index.num_documents for index in stored)
    gathered = Gathered(settings, needs_ids=True)
    skips = Skips(on_error)
    with (
        Replay(inputs, text_key=settings.text_key, id_key=settings.id_key, skips=skips) as replay,
        Signatures(settings.minhash, settings.memory, base) as signatures,
    ):
        attach_all(stored, signatures)
        for batch in batches(gathered.watch(replay.documents(lambda stream: None))):
            signatures.add(batch)
        gathered.check(inputs, skips)
        names = gathered.names
        assert names is not None
        number = next((n for n in range(len(names)) if names[n] == document_id), None)
        if number is None:
            near = did_you_mean(document_id, [names[n] for n in range(min(len(names), 10_000))])
            raise InputError(f"{names_of(inputs)}: no document has the id {document_id!r}{near}")
        clusters = cluster_documents(signatures, gathered, settings, replay)
        root = int(clusters.root[number]) - base
        found = Explanation(
            id=document_id,
            kept=all_names(stored, names)[base + root],
            is_kept=root == number,
            is_exact=bool(clusters.is_exact[number]),
            cluster_size=int((clusters.root == base + root).sum()),
        )
        if root < 0:
            return replace(found, index=_holder(stored, base + root))
        texts = {
            n: orjson.loads(raw)[settings.text_key]
            for n, raw in enumerate(replay.raw_records())
            if n in (number, root)
        }
    grams, others = (_grams(texts[n], settings.minhash) for n in (number, root))
    shared = [gram for gram in grams if gram in others]
    union = len(grams) + len(others) - len(shared)
    return replace(
        found,
        jaccard=len(shared) / union if union else float(texts[number] == texts[root]),
        shared_shingles=len(shared),
        shared=tuple(shared[:SHOWN]),
    )


def _holder(stored: Iterable[Stored], number: int) -> str:
    """The index that holds the document of this number."""
    for index in stored:
        if number < index.num_documents:
            return str(index.path)
        number -= index.num_documents
    raise IndexError(number)


def _grams(text: str, settings: MinHashSettings) -> dict[str, None]:
    """The shingles of a text, readable, in order."""
    if settings.char_n_grams:
        parts, n, separator = list(text), settings.char_n_grams, ""
    else:
        parts, n, separator = words(text), settings.n_grams, " "
    return dict.fromkeys(separator.join(parts[i : i + n]) for i in range(len(parts) - n + 1))
