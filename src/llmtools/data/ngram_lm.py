"""An n-gram language model: log10 probabilities of words, given the words before them.

All n-grams lie in one array of rows of 16 bytes, order by order: a hash of 64 bits, a probability
and a backoff weight (float32, log10). Within an order the rows are sorted by hash, and a row lies
at or after the place that its hash's upper bits name, so that a lookup is one step, or few. Empty
rows lie between, hash 0. The file is safetensors and is mapped, not read:

    ngrams       (R, 2) uint64; row r is its hash and, in the second, (float32, float32)
    segments     (order + 1,) int64; the rows of order n are those from segments[n-1] to segments[n]
    slots        (order,) int64; how many places the upper bits of a hash are spread over
    percentiles  (101,) float64, optional; perplexities of documents, the lowest to the highest
    __metadata__ format, order, normalize, ngrams (how many of each order), documents

A hash stands for an n-gram; two of a billion n-grams share one with a chance of 3 in 100.
Scores equal KenLM's `full_scores(bos=True, eos=True)` (tests/parity/test_ngram_lm_parity.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmtools.data.ngram_text import (
    NORMALIZE,
    UNKNOWN,
    Hashes,
    Integers,
    Offsets,
    Words,
    normalise,
    split_words,
)
from llmtools.errors import InputError
from llmtools.formats import tensor_header
from llmtools.formats.ngram import FORMAT, MAX_ORDER
from llmtools.formats.tokens import read_count
from llmtools.jit import kernel

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

# What KenLM gives a word outside the vocabulary of a model without <unk>.
NO_UNKNOWN = -100.0
# Rows for each n-gram: emptier tables need fewer steps and more room.
ROOM = 1.5
# Words at a time, so that what is remembered of them stays in the cache.
CHUNK = 1 << 16

_MIX = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(31)
_UPPER = np.uint64(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class NGrams:
    """The n-grams of one order, in any order.

    hashes: (G,) uint64, by `extend_hash`. probs, backoffs: (G,) log10; NaN in probs marks one that
    is here only because it ends a longer one.
    """

    hashes: Hashes
    probs: npt.NDArray[np.floating]
    backoffs: npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True, kw_only=True)
class NGramModel:
    """A model to score with; see the module's head for the arrays."""

    ngrams: Hashes
    segments: Integers
    slots: Integers
    counts: tuple[int, ...]
    normalize: str
    documents: int = 0
    percentiles: Doubles | None = None

    @property
    def order(self) -> int:
        return len(self.slots)

    def score_texts(self, texts: Sequence[str | bytes]) -> tuple[Doubles, Integers]:
        """Sum of log10 probabilities and number of scored words, </s> among them, of each text."""
        return self.score_words(split_words([normalise(t, self.normalize) for t in texts]))

    def score_words(self, words: Words) -> tuple[Doubles, Integers]:
        """The same of words that are hashed already."""
        sums = np.zeros(len(words.offsets) - 1)
        counts = np.zeros(len(sums), np.int64)
        _sum(self.word_scores(words), words.places, words.offsets, sums, counts)
        return sums, counts

    def word_scores(self, words: Words) -> Doubles:
        """log10 of each word's probability after the words before it in its sentence, (W,)."""
        out = np.zeros(len(words.hashes))
        values = self.ngrams.view(np.float32)
        for start in range(0, len(out), CHUNK):
            # The weights of a context need the words of that context again.
            first = max(0, start - self.order)
            part = slice(first, start + CHUNK)
            size = len(out[part])
            scores = np.empty(size)
            _score(
                words.hashes[part].copy(),
                words.places[part],
                self.ngrams,
                values,
                self.segments,
                self.slots,
                np.empty(size, np.uint64),
                np.empty(size, np.int64),
                np.empty(size, np.int64),
                np.empty((self.order, size), np.float32),
                scores,
            )
            out[start : start + CHUNK] = scores[start - first :]
        return out

    def perplexities(self, texts: Sequence[str | bytes]) -> Doubles:
        """10 ** (-log10 probability / words), (D,); NaN for a text without words."""
        return perplexity_of(*self.score_texts(texts))

    def cutoff(self, percent: float) -> float:
        """The perplexity below which `percent` of the documents lie that the model was measured on.

        Raises InputError where the model has none.
        """
        if self.percentiles is None:
            raise InputError(
                "this language model has no percentiles (an ARPA file cannot hold them); train one"
                " with llm scorer train -o FILE.safetensors, or name a limit instead"
            )
        return float(np.interp(percent, np.arange(101), self.percentiles))


def perplexity_of(sums: Doubles, counts: Integers) -> Doubles:
    """Perplexities from sums of log10 probabilities and numbers of words."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.where(counts > 0, 10.0 ** (-sums / counts), np.nan)


def percentiles_of(perplexities: Doubles) -> Doubles | None:
    """Their 0th to 100th percentile, (101,); None where no document has a perplexity."""
    found = perplexities[np.isfinite(perplexities)]
    return np.percentile(found, np.arange(101)) if len(found) else None


def extend_hash(grams: Hashes, before: Hashes) -> Hashes:
    """The hashes of n-grams with one more word in front; a single word's is its own hash."""
    return (grams ^ (grams >> _SHIFT)) * _MIX + before


def build_model(
    orders: Iterable[NGrams],
    *,
    normalize: str,
    documents: int = 0,
    percentiles: Doubles | None = None,
) -> NGramModel:
    """Lay n-grams out for lookup; raises InputError where two of one order have the same hash."""
    ngrams, segments = np.zeros((0, 2), np.uint64), [0]
    slots, counts = [], []
    for n, grams in enumerate(orders, 1):
        ranks = np.argsort(grams.hashes)
        hashes = grams.hashes[ranks]
        if np.any(hashes[1:] == hashes[:-1]):
            raise InputError(f"a {n}-gram is there twice")
        counts.append(len(hashes))
        places = max(1, int(len(hashes) * ROOM))
        slots.append(places)
        homes = ((hashes >> _UPPER) * np.uint64(places) >> _UPPER).astype(np.int64)
        counted = np.arange(len(hashes))
        rows = np.maximum.accumulate(homes - counted) + counted
        # The last row stays empty: every lookup ends there at the latest.
        size = max(places, int(rows[-1]) + 1 if len(rows) else 0) + 1
        # Grown where it stands: tables to be joined would be in memory twice. No view is left.
        ngrams.resize((segments[-1] + size, 2), refcheck=False)
        rows += segments[-1]
        segments.append(len(ngrams))
        ngrams[rows, 0] = hashes
        values = ngrams.view(np.float32)
        values[rows, 2], values[rows, 3] = grams.probs[ranks], grams.backoffs[ranks]
        del values, grams, ranks, hashes, homes, counted, rows
    return NGramModel(
        ngrams=ngrams,
        segments=np.array(segments, np.int64),
        slots=np.array(slots, np.int64),
        counts=tuple(counts),
        normalize=normalize,
        documents=documents,
        percentiles=percentiles,
    )


def dump_model(model: NGramModel) -> Iterator[bytes | memoryview]:
    """The file of a model, in pieces."""
    arrays: dict[str, np.ndarray] = {
        "ngrams": model.ngrams,
        "segments": model.segments,
        "slots": model.slots,
    }
    if model.percentiles is not None:
        arrays["percentiles"] = model.percentiles
    metadata = {
        "format": FORMAT,
        "order": str(model.order),
        "normalize": model.normalize,
        "ngrams": " ".join(map(str, model.counts)),
        "documents": str(model.documents),
    }
    dtypes = {name: array.dtype for name, array in arrays.items()}
    return tensor_header.dump_parts({name: [a] for name, a in arrays.items()}, dtypes, metadata)


def load_model(path: Path) -> NGramModel:
    """Map a model's file; raises InputError for one that is damaged or something else."""
    where = str(path)
    with open(path, "rb") as file:
        header = tensor_header.read_header(file, where)
    if header is None or header.metadata.get("format") != FORMAT:
        raise InputError(f"{where}: not an n-gram language model ({FORMAT})")
    if path.stat().st_size != header.data_start + header.data_bytes:
        raise InputError(
            f"{where}: truncated: {header.data_start + header.data_bytes:,} bytes announced,"
            f" {path.stat().st_size:,} present"
        )
    data = np.memmap(path, np.uint8, "r", offset=header.data_start)
    arrays = {name: tensor_header.view(entry, data) for name, entry in header.tensors.items()}
    order = read_count(header.metadata, "order", where)
    if order is None or not 1 <= order <= MAX_ORDER:
        raise InputError(f"{where}: order {order}; an n-gram model has 1 to {MAX_ORDER}")
    if header.metadata.get("normalize") not in NORMALIZE:
        raise InputError(f"{where}: normalize is {header.metadata.get('normalize')!r}")
    _check_arrays(arrays, order, where)
    counts = header.metadata.get("ngrams", "").split()
    if len(counts) != order or not all(c.isascii() and c.isdigit() for c in counts):
        raise InputError(f"{where}: header field ngrams does not hold {order} counts")
    return NGramModel(
        ngrams=arrays["ngrams"],
        segments=arrays["segments"].astype(np.int64),
        slots=arrays["slots"].astype(np.int64),
        counts=tuple(map(int, counts)),
        normalize=header.metadata["normalize"],
        documents=read_count(header.metadata, "documents", where) or 0,
        percentiles=arrays.get("percentiles"),
    )


def _check_arrays(arrays: Mapping[str, np.ndarray], order: int, where: str) -> None:
    """Raises InputError for arrays that a lookup could run out of."""
    wanted: dict[str, tuple[str, tuple[int | None, ...]]] = {
        "ngrams": ("<u8", (None, 2)),
        "segments": ("<i8", (order + 1,)),
        "slots": ("<i8", (order,)),
        "percentiles": ("<f8", (101,)),
    }
    for name, (dtype, shape) in wanted.items():
        array = arrays.get(name)
        if array is None and name == "percentiles":
            continue
        if (
            array is None
            or array.dtype != np.dtype(dtype)
            or len(array.shape) != len(shape)
            or any(w is not None and w != n for n, w in zip(array.shape, shape, strict=True))
        ):
            raise InputError(f"{where}: tensor {name!r} is missing or has another dtype or shape")
    ngrams, segments, slots = arrays["ngrams"], arrays["segments"], arrays["slots"]
    sizes = np.diff(segments)
    if (
        segments[0] != 0
        or segments[-1] != len(ngrams)
        or np.any(sizes < 1)
        or np.any(slots < 1)
        or np.any(slots > sizes)
        or np.any(slots >= 1 << 32)
        or np.any(ngrams[segments[1:] - 1, 0] != 0)
    ):
        raise InputError(f"{where}: the tables of n-grams do not fit together")


@kernel
def _find(hash_: np.uint64, ngrams: Hashes, first: int, slots: np.uint64) -> int:
    """The row of a hash in the segment that begins at `first`, or -1."""
    row = first + np.int64((hash_ >> _UPPER) * slots >> _UPPER)
    while True:
        found = ngrams[row, 0]
        if found == hash_:
            return int(row)
        # Rows are sorted, and the last of a segment is empty.
        if found == 0 or found > hash_:
            return -1
        row += 1


@kernel
def _score(
    hashes: Hashes,
    places: Offsets,
    ngrams: Hashes,
    values: Floats,
    segments: Integers,
    slots: Integers,
    grams: Hashes,
    matched: Integers,
    best: Integers,
    weights: Floats,
    out: Doubles,
) -> None:
    """log10 of each word's probability, order by order: lookups of one order wait for none other.

    matched: words of the longest n-gram here that ends in this word. best: the same of those that
    have a probability. weights[n - 1]: its backoff weight as a context of n words.
    """
    count = hashes.size
    for i in range(count):
        row = _find(hashes[i], ngrams, segments[0], np.uint64(slots[0]))
        if row < 0:
            hashes[i] = UNKNOWN
            row = _find(UNKNOWN, ngrams, segments[0], np.uint64(slots[0]))
        grams[i] = hashes[i]
        best[i] = 1
        matched[i] = 0 if row < 0 else 1
        out[i] = NO_UNKNOWN if row < 0 else values[row, 2]
        weights[0, i] = 0.0 if row < 0 else values[row, 3]
    for n in range(2, slots.size + 1):
        size = np.uint64(slots[n - 1])
        first = segments[n - 1]
        for i in range(n - 1, count):
            if matched[i] != n - 1 or places[i] < n - 1:
                continue
            grams[i] = (grams[i] ^ (grams[i] >> _SHIFT)) * _MIX + hashes[i - n + 1]
            row = _find(grams[i], ngrams, first, size)
            if row < 0:
                continue
            matched[i] = n
            weights[n - 1, i] = values[row, 3]
            if not np.isnan(values[row, 2]):
                best[i] = n
                out[i] = values[row, 2]
    for i in range(1, count):
        if places[i] > 0:
            for n in range(best[i], matched[i - 1] + 1):
                if n < slots.size:
                    out[i] += weights[n - 1, i - 1]


@kernel
def _sum(
    scores: Doubles, places: Offsets, offsets: Integers, sums: Doubles, counts: Integers
) -> None:
    """The scored words of each text, added one by one: the same sum in every batch."""
    for d in range(sums.size):
        for i in range(offsets[d], offsets[d + 1]):
            if places[i] > 0:
                sums[d] += scores[i]
                counts[d] += 1
