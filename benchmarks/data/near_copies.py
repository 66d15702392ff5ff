"""A corpus with known near-duplicates: real chunks and planted copies of them.

Chunks of about 1,700 bytes are cut from the prose, code and multilingual corpora at line ends.
Copies have 2, 5, 10 or 20 % of their words replaced by words of the corpus, one sentence deleted or
moved, or the same boilerplate at both ends; a few are exact. True pairs are all pairs whose sets of
lower-cased 5-word shingles (words: what stands between white space) have Jaccard >= 0.8, found by
a prefix-filter join (Chaudhuri et al. 2006, Bayardo et al. 2007), which misses none.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash
import zstandard
from numba import njit

THRESHOLD = 0.8
NGRAMS = 5
CHUNK_BYTES = 1_700
CORPORA = ("prose", "code", "multiling")
HEAD = "Skip to main content. Home News About Contact Sign in to your account to continue reading. "
TAIL = " All rights reserved. Privacy policy. Terms of use. Follow us for updates and new articles."
SENTENCE = re.compile(r"(?<=[.!?])\s+")

Hashes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]


def texts_of(data: Path, name: str) -> Iterator[str]:
    """The documents of one corpus."""
    with open(data / "corpora" / f"{name}.jsonl.zst", "rb") as file:
        lines = zstandard.ZstdDecompressor().stream_reader(file).read().splitlines()
    for line in lines:
        yield json.loads(line)["text"]


def chunks(text: str) -> Iterator[str]:
    """Runs of whole lines of CHUNK_BYTES or a little more."""
    held: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        held.append(line)
        size += len(line.encode())
        if size >= CHUNK_BYTES:
            yield "".join(held)
            held, size = [], 0


def _replace_words(share: float) -> Callable[[str, random.Random, list[str]], str]:
    def change(text: str, draw: random.Random, vocabulary: list[str]) -> str:
        parts = re.split(r"(\s+)", text)
        for i in range(0, len(parts), 2):
            if draw.random() < share:
                parts[i] = draw.choice(vocabulary)
        return "".join(parts)

    return change


def _without_a_sentence(text: str, draw: random.Random, vocabulary: list[str]) -> str:
    sentences = SENTENCE.split(text)
    del sentences[draw.randrange(len(sentences))]
    # Of a text without a sentence's end nothing would be left.
    return " ".join(sentences) or text


def _with_a_sentence_moved(text: str, draw: random.Random, vocabulary: list[str]) -> str:
    sentences = SENTENCE.split(text)
    sentence = sentences.pop(draw.randrange(len(sentences)))
    sentences.insert(draw.randrange(len(sentences) + 1), sentence)
    return " ".join(sentences)


def _within_boilerplate(text: str, draw: random.Random, vocabulary: list[str]) -> str:
    return HEAD + text + TAIL


def _unchanged(text: str, draw: random.Random, vocabulary: list[str]) -> str:
    return text


CHANGES = [
    *(_replace_words(share) for share in (0.02, 0.02, 0.05, 0.1, 0.2)),
    _without_a_sentence,
    _with_a_sentence_moved,
    _within_boilerplate,
    _unchanged,
]


def build(data: Path, num_documents: int, seed: int = 1) -> list[str]:
    """The texts, shuffled; the same for the same data and seed."""
    draw = random.Random(seed)
    found = [chunk for name in CORPORA for text in texts_of(data, name) for chunk in chunks(text)]
    draw.shuffle(found)
    # Most chunks have a copy of some kind, some have two.
    found = found[: max(1, num_documents * 2 // 5)]
    vocabulary = [word for chunk in found[:2_000] for word in chunk.split()]
    texts = list(found)
    while len(texts) < num_documents:
        change = CHANGES[len(texts) % len(CHANGES)]
        texts.append(change(found[draw.randrange(len(found))], draw, vocabulary))
    draw.shuffle(texts)
    return texts[:num_documents]


def shingle_sets(texts: list[str]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """The sorted distinct shingles of each text as 64-bit hashes, and their offsets (D + 1,)."""
    sets = []
    for text in texts:
        words = text.lower().split()
        grams = {" ".join(words[i : i + NGRAMS]) for i in range(len(words) - NGRAMS + 1)}
        sets.append(np.array([xxhash.xxh3_64_intdigest(g.encode()) for g in grams], np.uint64))
    offsets = np.zeros(len(sets) + 1, np.int64)
    np.cumsum([s.size for s in sets], out=offsets[1:])
    return np.concatenate([np.sort(s) for s in sets]), offsets


@njit(cache=True)
def _jaccard(sets, offsets, x, y):
    i, j = offsets[x], offsets[y]
    shared = 0
    while i < offsets[x + 1] and j < offsets[y + 1]:
        if sets[i] == sets[j]:
            shared += 1
            i += 1
            j += 1
        elif sets[i] < sets[j]:
            i += 1
        else:
            j += 1
    union = offsets[x + 1] - offsets[x] + offsets[y + 1] - offsets[y] - shared
    return shared / union if union else 0.0


@njit(cache=True)
def jaccards(sets, offsets, pairs, out):
    """The similarity of each pair (n, 2) into out (n,)."""
    for k in range(len(pairs)):
        out[k] = _jaccard(sets, offsets, pairs[k, 0], pairs[k, 1])


@njit(cache=True)
def _candidates(documents, starts, sizes, threshold, found):
    """Pairs of documents within a run of equal prefix shingles; counts only where found is full."""
    total = 0
    for r in range(len(starts) - 1):
        for i in range(starts[r], starts[r + 1]):
            for j in range(i + 1, starts[r + 1]):
                x, y = documents[i], documents[j]
                small, large = min(sizes[x], sizes[y]), max(sizes[x], sizes[y])
                if small >= threshold * large:
                    if total < len(found):
                        found[total, 0] = min(x, y)
                        found[total, 1] = max(x, y)
                    total += 1
    return total


def true_pairs(sets: Hashes, offsets: npt.NDArray[np.int64]) -> Pairs:
    """All pairs (n, 2) with Jaccard >= THRESHOLD, by a prefix-filter join.

    Of two sets with Jaccard >= t, each ordered by the same order, the first n - ceil(t n) + 1
    elements have one in common. Rare shingles first, so that few sets meet.
    """
    sizes = np.diff(offsets)
    values, rank, counts = np.unique(sets, return_inverse=True, return_counts=True)
    rarity = np.empty(values.size, np.int64)
    rarity[np.lexsort((values, counts))] = np.arange(values.size)
    owner = np.repeat(np.arange(sizes.size), sizes)
    order = np.lexsort((rarity[rank], owner))
    place = np.arange(sets.size) - np.repeat(offsets[:-1], sizes)
    prefix = sizes - np.ceil(THRESHOLD * sizes).astype(np.int64) + 1
    is_prefix = place < prefix[owner]
    shingles, documents = rank[order][is_prefix], owner[is_prefix]
    by_shingle = np.lexsort((documents, shingles))
    shingles, documents = shingles[by_shingle], documents[by_shingle]
    starts = np.flatnonzero(np.r_[True, shingles[1:] != shingles[:-1], True])
    room = np.empty((0, 2), np.int64)
    needed = _candidates(documents, starts, sizes, THRESHOLD, room)
    room = np.empty((needed, 2), np.int64)
    _candidates(documents, starts, sizes, THRESHOLD, room)
    pairs = np.unique(room, axis=0)
    similar = np.empty(len(pairs))
    jaccards(sets, offsets, pairs, similar)
    return pairs[similar >= THRESHOLD]


def cluster_pairs(cluster: npt.NDArray[np.int64]) -> Pairs:
    """All pairs of documents with the same cluster number, (n, 2)."""
    order = np.argsort(cluster, kind="stable")
    cuts = np.flatnonzero(np.diff(cluster[order])) + 1
    found = []
    for members in np.split(order, cuts):
        if members.size > 1:
            i, j = np.triu_indices(members.size, 1)
            found.append(np.stack([members[i], members[j]], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def recall_and_precision(
    cluster: npt.NDArray[np.int64], truth: Pairs, sets: Hashes, offsets: npt.NDArray[np.int64]
) -> tuple[float, float]:
    """Share of true pairs in one cluster; share of same-cluster pairs that are true."""
    recall = float((cluster[truth[:, 0]] == cluster[truth[:, 1]]).mean())
    pairs = cluster_pairs(cluster)
    similar = np.empty(len(pairs))
    jaccards(sets, offsets, pairs, similar)
    return recall, float((similar >= THRESHOLD).mean())


def write(data: Path, num_documents: int, documents: Path, truth: Path) -> None:
    """Write the documents as JSON lines, and their shingle sets and true pairs as .npz."""
    texts = build(data, num_documents)
    with open(documents, "w") as file:
        for number, text in enumerate(texts):
            fields = {"id": str(number), "text": text}
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")
    sets, offsets = shingle_sets(texts)
    np.savez(truth, sets=sets, offsets=offsets, pairs=true_pairs(sets, offsets))
