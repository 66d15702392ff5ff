"""Learning a Unigram vocabulary from counted words.

Substrings that occur twice are the first pieces; expectation maximisation weighs them, and pieces
whose loss costs least likelihood go, a quarter at a time, until the size is reached.
Source: Kudo 2018, as in sentencepiece and in tokenizers 0.23's models/unigram/trainer.rs, with
their settings: a million first pieces of at most 16 characters, chosen by frequency among different
words times length; two iterations between cuts; digamma for a sparse prior. One difference: words
of more than 64 characters are cut there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmtools.errors import UsageError
from llmtools.tokenizer import unigram_kernel as k
from llmtools.tokenizer.word_count import WordTable
from llmtools.tokenizer.word_kernel import Hashes, Ints, Longs

MAX_SEEDS = 1_000_000
NUM_ITERATIONS = 2
SHRINKING = 0.75
# Pieces expected less often than this go at once.
LEAST_EXPECTED = 0.5
# A character that is no piece is so much less likely than the least likely piece.
UNKNOWN_PENALTY = 10.0
_CHARACTER_PENALTY = 0.0001

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Words:
    """Words as code points, none longer than MAX_WORD. bounds: (words + 1,); counts: (words,)."""

    codes: Ints
    bounds: Longs
    counts: Longs


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Pieces as places in the words' code points, and their log-probabilities."""

    starts: Longs
    lengths: Longs
    scores: Floats

    def take(self, places: npt.NDArray[np.int64], scores: Floats) -> _Pieces:
        return _Pieces(self.starts[places], self.lengths[places], scores)


def learn_pieces(
    table: WordTable,
    size: int,
    *,
    max_seeds: int = MAX_SEEDS,
    on_tokens: Callable[[int], None] = lambda num: None,
) -> list[tuple[str, float]]:
    """At most `size` pieces and their log-probabilities, the most probable first.

    Every character of the words is one of them. raises: UsageError where these alone are more.
    """
    words = _as_codes(table)
    alphabet = np.unique(words.codes)
    if len(alphabet) > size:
        raise UsageError(
            f"--vocab-size leaves {size} tokens beside the special ones, and the documents have"
            f" {len(alphabet)} different characters"
        )
    pieces = _seeds(words, max_seeds)
    wanted = size * 11 // 10
    while True:
        for _ in range(NUM_ITERATIONS):
            pieces = _reweigh(words, pieces)
        on_tokens(min(size, len(pieces.starts)))
        if len(pieces.starts) <= wanted:
            break
        pieces = _prune(words, pieces, max(wanted, int(len(pieces.starts) * SHRINKING)))
    return _finish(words, pieces, alphabet, size)


def _as_codes(table: WordTable) -> _Words:
    codes = np.frombuffer(table.words.tobytes().decode().encode("utf-32-le"), np.int32)
    places = np.concatenate([[0], np.cumsum(table.words & 0xC0 != 0x80)])[table.starts]
    lengths = np.diff(places)
    num_parts = -(-lengths // k.MAX_WORD)
    word = np.repeat(np.arange(len(lengths)), num_parts)
    part = np.arange(len(word)) - np.repeat(np.cumsum(num_parts) - num_parts, num_parts)
    bounds = np.append(places[:-1][word] + part * k.MAX_WORD, places[-1])
    return _Words(codes, bounds.astype(np.int64), table.counts[word])


def _seeds(words: _Words, max_seeds: int) -> _Pieces:
    """All characters, then substrings that occur twice, by frequency times length.

    A substring that is always followed by the same character is left to the longer one.
    """
    alphabet, first, letter = np.unique(words.codes, return_index=True, return_inverse=True)
    lengths = np.diff(words.bounds)
    ends = np.repeat(words.bounds[1:], lengths)
    weights = np.repeat(words.counts, lengths).astype(np.float64)
    starts, sizes = [first], [np.ones(len(alphabet), np.int64)]
    values: list[Floats] = [np.bincount(letter, weights).astype(np.float64)]
    at = np.arange(len(words.codes))
    group, counts = letter.astype(np.int64), np.bincount(letter)
    found: tuple[Longs, Longs] | None = None
    for size in range(2, k.MAX_PIECE + 2):
        longer = at + size <= ends[at]
        at, group = at[longer], group[longer]
        key = group * len(alphabet) + letter[at + size - 1]
        _, place, child, child_counts = np.unique(
            key, return_index=True, return_inverse=True, return_counts=True
        )
        if found is not None:
            goes_on = np.zeros(len(found[0]), bool)
            parent = group[place]
            goes_on[parent[child_counts == counts[parent]]] = True
            starts.append(found[0][~goes_on])
            sizes.append(np.full(len(starts[-1]), size - 1))
            values.append(found[1][~goes_on] * np.float64(size - 1))
        kept = child_counts >= 2
        number = np.cumsum(kept) - 1
        counts = child_counts[kept]
        found = at[place[kept]], counts
        stays = kept[child]
        at, group = at[stays], number[child[stays]]
        if len(at) == 0:
            break
    value = np.concatenate(values)
    order = np.argsort(-value[len(alphabet) :], kind="stable")[: max(0, max_seeds - len(alphabet))]
    chosen = np.concatenate([np.arange(len(alphabet)), order + len(alphabet)])
    scores = np.log(value[chosen]) - np.log(value[chosen].sum())
    return _Pieces(np.concatenate(starts)[chosen], np.concatenate(sizes)[chosen], scores)


def _trie(words: _Words, pieces: _Pieces) -> tuple[Hashes, Ints, Ints]:
    most = int(pieces.lengths.sum()) + 1
    keys = np.full(1 << (2 * most).bit_length(), k.EMPTY, np.uint64)
    children, piece_at = np.empty(len(keys), np.int32), np.full(most, k.NONE, np.int32)
    k.build_trie(words.codes, pieces.starts, pieces.lengths, keys, children, piece_at)
    return keys, children, piece_at


def _unknown(pieces: _Pieces) -> float:
    return float(pieces.scores.min()) - UNKNOWN_PENALTY


def _reweigh(words: _Words, pieces: _Pieces) -> _Pieces:
    """One iteration: expected uses, and from them new probabilities."""
    expected = np.zeros(len(pieces.starts))
    k.expect(
        words.codes, words.bounds, words.counts, pieces.scores, _unknown(pieces),
        *_trie(words, pieces), expected,
    )  # fmt: skip
    kept = np.flatnonzero(expected >= LEAST_EXPECTED)
    used = expected[kept]
    return pieces.take(kept, digamma(used) - digamma(used.sum(keepdims=True)))


def digamma(x: Floats) -> Floats:
    """The logarithmic derivative of the gamma function, for x > 0, to 1e-9."""
    lifted, shift = x.astype(np.float64), np.zeros_like(x, np.float64)
    for _ in range(7):
        is_low = lifted < 7
        shift[is_low] -= 1 / lifted[is_low]
        lifted = np.where(is_low, lifted + 1, lifted)
    half = lifted - 0.5
    square = 1 / (half * half)
    series = square / 24 - 7 * square**2 / 960 + 31 * square**3 / 8064 - 127 * square**4 / 30720
    found: Floats = shift + np.log(half) + series
    return found


def _prune(words: _Words, pieces: _Pieces, size: int) -> _Pieces:
    """The pieces that must stay, then those whose loss costs most, `size` in all."""
    trie, unknown = _trie(words, pieces), _unknown(pieces)
    frequency, losses = np.zeros(len(pieces.starts)), np.zeros(len(pieces.starts))
    k.count_best(words.codes, words.bounds, words.counts, pieces.scores, unknown, *trie, frequency)
    k.find_losses(
        words.codes, pieces.starts, pieces.lengths, pieces.scores, unknown, *trie, frequency, losses
    )
    used = np.flatnonzero(losses > -np.inf)
    order = used[np.argsort(-losses[used], kind="stable")]
    must_stay = int((losses == np.inf).sum())
    kept = order[: max(size, must_stay)]
    return pieces.take(kept, pieces.scores[kept])


def _finish(words: _Words, pieces: _Pieces, alphabet: Ints, size: int) -> list[tuple[str, float]]:
    """All characters, and of the others the first: those whose loss cost most."""
    texts = [
        words.codes[start : start + length].tobytes().decode("utf-32-le")
        for start, length in zip(pieces.starts.tolist(), pieces.lengths.tolist(), strict=True)
    ]
    scores = dict(zip(texts, pieces.scores.tolist(), strict=True))
    lowest = min(scores.values())
    found = {}
    for number, code in enumerate(alphabet.tolist()):
        found[chr(code)] = scores.get(chr(code), lowest - _CHARACTER_PENALTY * number)
    for text, score in scores.items():
        if len(found) >= size:
            break
        found[text] = score
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))
