"""How much text a token holds: of a whole corpus, and by language and source.

A word is what stands between spaces, so tokens a word mean little for scripts that write none;
bytes a token are comparable everywhere.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from llmtools.formats.record import Document
from llmtools.tokenizer.bytes_chars import byte_chars
from llmtools.tokenizer.tokenizer import Tokenizer

LANGUAGE_FIELDS = ("language", "lang")
UNNAMED = "(none)"
# Groups of documents that are told apart; all further ones are one.
MAX_GROUPS = 256
OTHERS = "(others)"
BATCH_CHARS = 1 << 18
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def language_of(fields: Mapping[str, Any]) -> str:
    """The language that a document's metadata, or the document itself, names."""
    metadata = fields.get("metadata")
    for place in (metadata if isinstance(metadata, dict) else {}, fields):
        for key in LANGUAGE_FIELDS:
            if isinstance(place.get(key), str):
                return str(place[key])
    return UNNAMED


def source_of(fields: Mapping[str, Any]) -> str:
    """Where a document says that it comes from: of a path its first part."""
    metadata = fields.get("metadata")
    for place in (metadata if isinstance(metadata, dict) else {}, fields):
        if isinstance(place.get("source"), str):
            return str(place["source"]).lstrip("/").split("/", 1)[0] or UNNAMED
    return UNNAMED


class Sample:
    """Some documents of each language and source, the same ones in whatever order they come.

    group_bytes: about how much text is kept of each pair of language and source; of one with more,
    the texts with the lowest hashes are kept.
    """

    def __init__(self, group_bytes: int) -> None:
        self._room = group_bytes
        self._groups: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        self._used: dict[tuple[str, str], int] = {}

    def add(self, document: Document) -> None:
        group = language_of(document.fields), source_of(document.fields)
        if group not in self._groups and len(self._groups) >= MAX_GROUPS:
            group = OTHERS, OTHERS
        held = self._groups.setdefault(group, [])
        data = document.encoded
        rank = -xxhash.xxh3_64_intdigest(data)
        used = self._used.get(group, 0)
        if used >= self._room and rank <= held[0][0]:
            return
        heapq.heappush(held, (rank, len(data), document.text))
        used += len(data)
        while len(held) > 1 and used - held[0][1] >= self._room:
            used -= heapq.heappop(held)[1]
        self._used[group] = used

    def __iter__(self) -> Iterator[tuple[str, str, list[str]]]:
        """Language, source and texts, in a fixed order."""
        for (language, source), held in sorted(self._groups.items()):
            yield language, source, [text for _, _, text in sorted(held, reverse=True)]


@dataclass(slots=True)
class Tally:
    """Counts of some documents and their tokens.

    unknown: tokens that stand for text that the vocabulary cannot spell. byte_pieces: tokens that
    are one byte of a character of several.
    """

    documents: int = 0
    bytes: int = 0
    words: int = 0
    tokens: int = 0
    unknown: int = 0
    byte_pieces: int = 0

    def add(self, other: Tally) -> None:
        """Add the counts of other documents."""
        for name in ("documents", "bytes", "words", "tokens", "unknown", "byte_pieces"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(self.tokens, 1)

    def to_json(self) -> dict[str, float | int]:
        """The counts, and what follows from them; 0 where nothing was counted."""
        tokens = max(self.tokens, 1)
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "words": self.words,
            "tokens": self.tokens,
            "tokens_per_word": self.tokens / max(self.words, 1),
            "bytes_per_token": self.bytes_per_token,
            "unknown_share": self.unknown / tokens,
            "byte_share": self.byte_pieces / tokens,
        }


@dataclass(frozen=True, slots=True)
class Fertility:
    """Tallies of a whole sample, by language, and by source."""

    total: Tally
    languages: dict[str, Tally]
    sources: dict[str, Tally]

    def to_json(self) -> dict[str, Any]:
        """One object for each of the three."""
        return {
            "all": self.total.to_json(),
            "languages": {name: t.to_json() for name, t in sorted(self.languages.items())},
            "sources": {name: t.to_json() for name, t in sorted(self.sources.items())},
        }


def measure(tokenizer: Tokenizer, sample: Sample) -> Fertility:
    """Encode a sample and count."""
    fields = json.loads(tokenizer.to_json())
    unknown, byte_pieces = _unknown_id(fields), _byte_ids(fields)
    found = Fertility(Tally(), {}, {})
    for language, source, texts in sample:
        tally = Tally()
        for batch in _batches(texts):
            for text, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
                tally.documents += 1
                tally.bytes += len(text.encode())
                tally.words += len(text.split())
                tally.tokens += len(ids)
                tally.unknown += int((ids == unknown).sum()) if unknown is not None else 0
                tally.byte_pieces += int(np.isin(ids, byte_pieces).sum())
        found.total.add(tally)
        found.languages.setdefault(language, Tally()).add(tally)
        found.sources.setdefault(source, Tally()).add(tally)
    return found


def _batches(texts: list[str]) -> Iterator[list[str]]:
    held: list[str] = []
    num_chars = 0
    for text in texts:
        held.append(text)
        num_chars += len(text)
        if num_chars >= BATCH_CHARS:
            yield held
            held, num_chars = [], 0
    if held:
        yield held


def _unknown_id(fields: Mapping[str, Any]) -> int | None:
    """The id of the token for what cannot be spelled."""
    model = fields["model"]
    if isinstance(model["vocab"], list):
        found: int | None = model.get("unk_id")
        return found
    unknown: int | None = model["vocab"].get(model.get("unk_token"))
    return unknown


def _byte_ids(fields: Mapping[str, Any]) -> np.ndarray:
    """The ids of tokens that are one byte from 0x80 up."""
    vocab = fields["model"]["vocab"]
    if isinstance(vocab, list):
        vocab = {piece: id for id, (piece, _) in enumerate(vocab)}
    singles = set(byte_chars()[0x80:]) if '"ByteLevel"' in json.dumps(fields["decoder"]) else set()
    wanted = [id for token, id in vocab.items() if token in singles or _BYTE_TOKEN.fullmatch(token)]
    return np.array(wanted, np.int64)
