"""Learning byte-pair merges from counted words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmtools.errors import ResourceError
from llmtools.tokenizer import bpe_kernel as k

Integers = npt.NDArray[np.int32]
# Merges between two looks at signals and progress.
STEP = 128
MAX_SLOTS = 2**31 - 2


@dataclass(frozen=True, slots=True)
class Symbols:
    """Words as token ids.

    ids: (n,) int32, all words in turn. starts: (words + 1,) int64. counts: (words,) int64.
    """

    ids: Integers
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned: tokens by id as bytes, and the merges (left, right) in order of rank."""

    tokens: list[bytes]
    merges: list[tuple[int, int]]


def learn_merges(
    words: Symbols,
    tokens: Sequence[bytes],
    target: int,
    *,
    min_frequency: int = 0,
    prefix: bytes = b"",
    keeps_tokens: bool = False,
    on_tokens: Callable[[int], None] = lambda num: None,
) -> Learned:
    """Merge the most frequent pair, lower ids first among equals, until there are `target` tokens.

    tokens: those there already, by id, all different. prefix: what tokens within a word begin with
    and a merge drops from its right part (WordPiece's '##'). keeps_tokens: never make a merge that
    reads as a token of the vocabulary. on_tokens: told the size of the vocabulary now and then.
    Fewer tokens come out where no pair occurs `min_frequency` times. The order of the words does
    not matter. raises: ResourceError for more symbols than 32-bit places can number.
    """
    num_words = len(words.counts)
    num_slots = int(words.starts[-1]) + num_words + 1
    if num_slots > MAX_SLOTS:
        raise ResourceError(
            f"the different words have {num_slots:,} symbols, training holds at most"
            f" {MAX_SLOTS:,}; give less text, or a lower --memory, which leaves out rare words"
        )
    symbols = np.empty(num_slots, np.int32)
    walls = np.empty(num_slots // k.BLOCK + 1, np.int32)
    k.lay_out(words.ids, words.starts, symbols, walls)
    weights = words.counts
    # The ids would be there a second time while the tables grow.
    del words
    texts = np.frombuffer(b"".join(tokens), np.uint8).copy()
    ends = np.zeros(max(target, len(tokens)) + 2, np.int64)
    ends[1 : len(tokens) + 1] = np.cumsum([len(token) for token in tokens])
    named = np.zeros(1 << (4 * max(target, len(tokens), 64)).bit_length(), np.int32)
    for id in range(len(tokens)):
        named[k.find_token(texts, ends, named, ends[id], ends[id + 1])] = id + 1
    sizes_of = np.ones(max(target, len(tokens)) + 1, np.int32)
    at = np.zeros(8, np.int64)
    at[k.NUM_TOKENS] = len(tokens)
    table = (np.full(1024, k.EMPTY, np.uint64), np.zeros(1024, np.int64), np.zeros(1024, np.int32))
    grown = k.count_pairs(symbols, weights, *table, at)
    del table
    found = np.zeros((STEP, 3), np.int32)
    merges: list[tuple[int, int]] = []
    while not at[k.IS_DONE]:
        done, texts, grown = k.merge_pairs(
            symbols, walls, weights, texts, ends, sizes_of, named,
            np.frombuffer(prefix, np.uint8), keeps_tokens, *grown, at, target, min_frequency, found,
        )  # fmt: skip
        merges += map(tuple, found[:done, :2].tolist())
        on_tokens(int(at[k.NUM_TOKENS]))
    # Before lists of as many objects are made.
    del symbols, walls, grown
    data = texts.tobytes()
    bounds = ends[: at[k.NUM_TOKENS] + 1].tolist()
    learned = [data[a:b] for a, b in itertools.pairwise(bounds)]
    # A pair merged twice has the later of its ranks.
    last = {pair: rank for rank, pair in enumerate(merges)}
    return Learned(learned, [pair for rank, pair in enumerate(merges) if last[pair] == rank])
