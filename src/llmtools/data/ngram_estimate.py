"""Interpolated modified Kneser-Ney estimates from documents (Chen and Goodman 1998, section 3).

    p(w | h) = (a(h w) - D(a(h w))) / sum_v a(h v)  +  gamma(h) p(w | h')

with h' the context without its first word, a(.) the count of the highest order and, below it, the
number of different words before the n-gram; an n-gram that begins a sentence has none before it and
keeps its count. D is one of D1, D2, D3+ of its order, from the numbers of n-grams with adjusted
count 1 to 4. Words are interpolated with 1 / (words, </s> and <unk>). These are lmplz's conventions
(KenLM), and so are: ids in the order in which words come, <s> with log10 probability 0, and 0.5, 1,
1.5 where discounts cannot be estimated.

Pruning (lmplz's --prune) leaves out n-grams that occur so often or more rarely; discounts are those
of all, and gamma gives what is left out to the lower order.

No n-gram is ever a Python object: an n-gram is the pair of its first n - 1 words, as the number of
that (n-1)-gram, and its last word, and each order is one sort of such pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from llmtools.data.ngram_lm import Doubles, NGrams, extend_hash
from llmtools.data.ngram_text import (
    BEGIN,
    END,
    NORMALIZE,
    UNKNOWN,
    Hashes,
    Integers,
    Offsets,
    Words,
    normalise,
    split_words,
)
from llmtools.errors import InputError, UsageError
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.ngram import MAX_ORDER
from llmtools.jit import kernel

SPECIAL = (b"<unk>", b"<s>", b"</s>")
_BEGIN_ID, _END_ID = 1, 2
FALLBACK = (0.5, 1.0, 1.5)
BATCH_BYTES = 1 << 20
# Numbers of n-grams are kept in 32 bits.
MAX_WORDS = (1 << 31) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NGramSettings:
    """order: words of the longest n-grams. prune: for each order from 1, drop n-grams that occur at
    most so often; the last number stands for all further orders.
    """

    order: int = 5
    normalize: str = "ccnet"
    prune: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.order <= MAX_ORDER:
            raise UsageError(f"--order {self.order}: an n-gram model has 1 to {MAX_ORDER} words")
        if self.normalize not in NORMALIZE:
            raise UsageError(f"--normalize {self.normalize!r}: one of {', '.join(NORMALIZE)}")
        limits = (0, *self.prune)
        if (
            len(self.prune) > self.order
            or (self.prune and self.prune[0] != 0)
            or any(a > b for a, b in pairwise(limits))
        ):
            raise UsageError(
                f"--prune {','.join(map(str, self.prune))}: counts for order 1, 2, ... up to"
                f" {self.order}; the first is 0, none is below the one before it (as 0,0,1)"
            )

    def threshold(self, n: int) -> int:
        """Count at which an n-gram is still dropped."""
        return self.prune[min(n, len(self.prune)) - 1] if self.prune else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """All words of some documents as ids.

    ids: (W,) int32, each sentence from <s> to </s>. left: (W,) int32, words from here to the end of
    the sentence, itself among them. words: their spellings, hashes: (V,) uint64, by id. offsets:
    (D + 1,) int64, where each document begins.
    """

    ids: Offsets
    left: Offsets
    words: list[bytes]
    hashes: Hashes
    offsets: Integers

    def as_words(self) -> Words:
        """The documents as a model scores them."""
        ends = np.flatnonzero(self.ids == _END_ID)
        sizes = np.diff(ends, prepend=-1).astype(np.int32)
        places = np.repeat(sizes, sizes) - self.left
        empty = np.empty(0, np.int32)
        return Words(self.hashes[self.ids], places, empty, empty, self.offsets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The estimates of one order, sorted by context.

    places: (G,) int32, where in the corpus an occurrence begins. probs, backoffs: (G,) float64,
    log10. discounts: D1, D2, D3+; is_fallback: they could not be estimated.
    """

    places: Offsets
    probs: Doubles
    backoffs: Doubles
    discounts: tuple[float, float, float]
    is_fallback: bool


def read_corpus(texts: Iterable[str], normalize: str) -> Corpus:
    """Number the words of documents; raises NothingLeft where there is none."""
    table = _Vocabulary()
    parts: list[tuple[Offsets, Offsets]] = []
    lengths: list[int] = []
    held: list[bytes] = []
    num_bytes = 0

    def flush() -> None:
        nonlocal held, num_bytes
        words = split_words(held, with_spans=True)
        # A view would keep the array that has room for three times as many words.
        parts.append((table.number(words, b"".join(held)), words.places.copy()))
        lengths.extend(np.diff(words.offsets).tolist())
        held, num_bytes = [], 0

    for text in texts:
        held.append(normalise(text, normalize))
        num_bytes += len(held[-1])
        if num_bytes >= BATCH_BYTES:
            flush()
    flush()
    ids = np.concatenate([ids for ids, _ in parts])
    places = np.concatenate([places for _, places in parts])
    parts.clear()
    if len(ids) == 0:
        raise NothingLeft("the documents hold no words; a language model needs some")
    if len(ids) > MAX_WORDS:
        raise InputError(f"{len(ids):,} words; a model takes {MAX_WORDS:,} of them at most")
    sizes = places[ids == _END_ID] + np.int32(1)
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Corpus(
        ids=ids,
        left=np.repeat(sizes, sizes) - places,
        words=table.words,
        hashes=np.array(table.hashes, np.uint64),
        offsets=offsets,
    )


class _Vocabulary:
    """Words and their ids, in the order in which they come."""

    def __init__(self) -> None:
        self.words = list(SPECIAL)
        self.hashes = [int(UNKNOWN), int(BEGIN), int(END)]
        self._keys, self._ids = np.zeros(1 << 16, np.uint64), np.zeros(1 << 16, np.int32)
        self._insert(np.array(self.hashes, np.uint64), range(3))

    def _insert(self, hashes: Hashes, ids: Sequence[int]) -> None:
        count = len(ids)
        unread = np.empty(count, np.int32), np.empty(count, np.int64)
        _number(hashes, self._keys, self._ids, ids[0], *unread)

    def number(self, words: Words, text: bytes) -> Offsets:
        """The ids of words; those not seen before get the next ones."""
        while len(self._keys) < 2 * (len(self.words) + len(words.hashes)):
            size = 4 * len(self._keys)
            self._keys, self._ids = np.zeros(size, np.uint64), np.zeros(size, np.int32)
            self._insert(np.array(self.hashes, np.uint64), range(len(self.hashes)))
        ids = np.empty(len(words.hashes), np.int32)
        new = np.empty(len(words.hashes), np.int64)
        count = _number(words.hashes, self._keys, self._ids, len(self.words), ids, new)
        for at in new[:count].tolist():
            self.words.append(text[words.starts[at] : words.stops[at]])
        self.hashes += words.hashes[new[:count]].tolist()
        return ids


@kernel
def _number(
    hashes: Hashes, keys: Hashes, key_ids: Offsets, next_id: int, ids: Offsets, new: Integers
) -> int:
    """Give each hash its id; new[: returned] are the places of those that were not there."""
    mask = keys.size - 1
    count = 0
    for i in range(hashes.size):
        at = np.int64(hashes[i] & np.uint64(mask))
        while keys[at] != 0 and keys[at] != hashes[i]:
            at = (at + 1) & mask
        if keys[at] == 0:
            keys[at] = hashes[i]
            key_ids[at] = next_id + count
            new[count] = i
            count += 1
        ids[i] = key_ids[at]
    return count


@dataclass(frozen=True, slots=True)
class _Counted:
    """The n-grams of one order: where each occurs, counts, numbers of its two (n-1)-grams."""

    places: Offsets
    counts: Offsets
    prefixes: Offsets
    suffixes: Offsets


def _count(corpus: Corpus, order: int) -> Iterator[_Counted]:
    """The n-grams of one order after another, counted when they are asked for."""
    ids = corpus.ids
    counts = np.bincount(ids, minlength=len(corpus.words)).astype(np.int32)
    first = np.zeros(len(counts), np.int32)
    first[ids] = np.arange(len(ids), dtype=np.int32)
    nothing = np.zeros(len(counts), np.int32)
    yield _Counted(first, counts, nothing, nothing)
    # The number of the n-gram that begins at each place; it is read only where there is one.
    numbers = ids.copy()
    for n in range(2, order + 1):
        yield _count_longer(corpus, n, numbers)


def _count_longer(corpus: Corpus, n: int, numbers: Offsets) -> _Counted:
    """The n-grams, from the numbers of (n-1)-grams by place, which become those of the n-grams."""
    num_words = len(corpus.words)
    places = np.flatnonzero(corpus.left >= n).astype(np.int32)
    keys = numbers[places].astype(np.int64)
    keys *= num_words
    keys += corpus.ids[places + np.int32(n - 1)]
    ranks = np.argsort(keys)
    keys, places = keys[ranks], places[ranks]
    del ranks
    is_first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=is_first[1:])
    starts = np.flatnonzero(is_first).astype(np.int32)
    firsts = places[starts]
    found = _Counted(
        firsts,
        np.diff(starts, append=np.int32(len(keys))),
        (keys[starts] // num_words).astype(np.int32),
        numbers[firsts + np.int32(1)],
    )
    numbers[places] = np.cumsum(is_first, dtype=np.int32) - np.int32(1)
    return found


def estimate(corpus: Corpus, settings: NGramSettings) -> Iterator[Order]:
    """The model's orders, fewer than asked for where no sentence is as long.

    They come one by one, so that two of them are in memory at most.
    """
    counted = _count(corpus, min(settings.order, int(corpus.left.max())))
    grams: _Counted | None = next(counted)
    lower = np.full(1, 1.0 / (len(corpus.words) - 1))
    kept_before = np.ones(0, bool)
    last: Order | None = None
    n = 0
    while grams is not None:
        n += 1
        longer = next(counted, None)
        adjusted = _adjusted(corpus, grams, None if longer is None else longer.suffixes)
        if n == 1:
            adjusted[[0, _BEGIN_ID]] = 0
        discounts, is_fallback = find_discounts(adjusted)
        is_kept = np.ones(len(adjusted), bool)
        if settings.threshold(n):
            is_kept = grams.counts > settings.threshold(n)
        lower, gammas = _weigh(grams, adjusted, discounts, is_kept, lower)
        del adjusted
        if last is None:
            lower[_BEGIN_ID] = 1.0
        else:
            last.backoffs[:] = np.log10(gammas)[kept_before]
            yield last
        del gammas
        last = Order(
            places=grams.places[is_kept],
            probs=np.log10(lower[is_kept]),
            backoffs=np.zeros(int(is_kept.sum())),
            discounts=discounts,
            is_fallback=is_fallback,
        )
        kept_before, grams = is_kept, longer
    if last is not None:
        yield last


def _adjusted(corpus: Corpus, grams: _Counted, longer: Offsets | None) -> Integers:
    """The a(.) of n-grams; longer: the suffixes of the next order, None for the highest."""
    adjusted: Integers = grams.counts.astype(np.int64)
    if longer is not None:
        begins = corpus.ids[grams.places] == _BEGIN_ID
        adjusted = np.where(begins, adjusted, np.bincount(longer, minlength=len(adjusted)))
    return adjusted


def _weigh(
    grams: _Counted,
    adjusted: Integers,
    discounts: tuple[float, float, float],
    is_kept: npt.NDArray[np.bool_],
    lower: Doubles,
) -> tuple[Doubles, Doubles]:
    """p of each n-gram, (G,), and gamma of each (n-1)-gram; lower: p of these, (1,) at order 1."""
    taken = np.array([0.0, *discounts])[np.minimum(adjusted, 3)]
    np.minimum(adjusted, taken, out=taken)
    size = len(lower)
    totals = np.bincount(grams.prefixes, weights=adjusted, minlength=size)
    lost = np.where(is_kept, taken, adjusted)
    missing = np.bincount(grams.prefixes, weights=lost, minlength=size)
    del lost
    with np.errstate(invalid="ignore", divide="ignore"):
        gammas = np.where(totals > 0, missing / totals, 1.0)
        probs = np.subtract(adjusted, taken, out=taken)
        probs /= totals[grams.prefixes]
    below = gammas[grams.prefixes]
    below *= lower[grams.suffixes]
    probs += below
    return probs, gammas


def find_discounts(adjusted: Integers) -> tuple[tuple[float, float, float], bool]:
    """D1, D2, D3+ from how many n-grams have each adjusted count, or (FALLBACK, True)."""
    n = np.bincount(np.minimum(adjusted, 5), minlength=6).astype(float)
    if not (n[1] and n[2] and n[3]):
        return FALLBACK, True
    y = n[1] / (n[1] + 2 * n[2])
    found = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
    # A discount of 0 could leave a context no weight for words it has not seen.
    if not all(0 < d <= k for k, d in enumerate(found, 1)):
        return FALLBACK, True
    return (float(found[0]), float(found[1]), float(found[2])), False


def hashed(corpus: Corpus, orders: Iterable[Order]) -> Iterator[NGrams]:
    """Estimates as a model is built of, one order after another."""
    for n, one in enumerate(orders, 1):
        hashes = corpus.hashes
        if n > 1:
            hashes = corpus.hashes[corpus.ids[one.places + n - 1]]
            for before in range(n - 2, -1, -1):
                hashes = extend_hash(hashes, corpus.hashes[corpus.ids[one.places + before]])
        grams = NGrams(hashes=hashes, probs=one.probs, backoffs=one.backoffs)
        # What the loop still names would stay in memory while the next order is estimated.
        del one, hashes
        yield grams
        del grams
