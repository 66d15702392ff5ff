"""The inner loops of Unigram training, compiled.

A word's lattice has a node between any two characters, and an edge for each piece that spells the
characters between two nodes; a trie of all pieces finds the edges. Sums over paths are made of
plain products: each edge's probability is multiplied by exp(LIFT) for each of its characters, which
cancels, since all paths of a word are of one length, and keeps words of up to MAX_WORD characters
within the range of float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.jit import kernel
from llmtools.tokenizer.word_kernel import Hashes, Ints, Longs

Floats = npt.NDArray[np.float64]
LIFT = 8.0
MAX_WORD = 64
MAX_PIECE = 16
EMPTY = np.uint64(2**64 - 1)
NONE = np.int32(-1)


@kernel
def _place(keys: Hashes, node: Any, code: Any) -> Any:
    mask = np.uint64(keys.size - 1)
    key = np.uint64(node) << np.uint64(21) | np.uint64(code)
    mixed = key * np.uint64(0x9E3779B97F4A7C15)
    slot = (mixed ^ (mixed >> np.uint64(32))) & mask
    while keys[slot] != EMPTY and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)


@kernel
def build_trie(
    codes: Ints, starts: Longs, lengths: Longs, keys: Hashes, children: Ints, piece_at: Ints
) -> int:
    """Enter the pieces codes[starts : starts + lengths]; returns the number of nodes.

    keys, children: (power of two,) empty; piece_at: the piece that ends at a node, filled NONE.
    """
    num_nodes = 1
    for piece in range(starts.size):
        node = 0
        for i in range(starts[piece], starts[piece] + lengths[piece]):
            slot = _place(keys, node, codes[i])
            if keys[slot] == EMPTY:
                keys[slot] = np.uint64(node) << np.uint64(21) | np.uint64(codes[i])
                children[slot] = num_nodes
                num_nodes += 1
            node = children[slot]
        piece_at[node] = piece
    return num_nodes


@kernel
def expect(
    codes: Ints, bounds: Longs, counts: Longs, scores: Floats, unknown: float,
    keys: Hashes, children: Ints, piece_at: Ints, expected: Floats,
) -> float:  # fmt: skip
    """Add to `expected` how often each piece is used on average; returns the log-likelihood.

    bounds: (words + 1,) of `codes`; scores: log-probabilities of the pieces; unknown: of a
    character that is no piece.
    """
    total = 0.0
    lifted = np.empty(scores.size)
    for piece in range(scores.size):
        lifted[piece] = np.exp(scores[piece])
    lifts = np.exp(LIFT * np.arange(MAX_PIECE + 1))
    lost = np.exp(unknown + LIFT)
    forward, backward = np.empty(MAX_WORD + 1), np.empty(MAX_WORD + 1)
    room = MAX_WORD * MAX_PIECE
    begins, ends = np.empty(room, np.int64), np.empty(room, np.int64)
    pieces, weights = np.empty(room, np.int32), np.empty(room)
    for word in range(counts.size):
        first, size = bounds[word], bounds[word + 1] - bounds[word]
        forward[: size + 1] = 0.0
        forward[0] = 1.0
        num_edges = 0
        for i in range(size):
            node, has_single = 0, False
            for j in range(i, min(size, i + MAX_PIECE)):
                slot = _place(keys, node, codes[first + j])
                if keys[slot] == EMPTY:
                    break
                node = children[slot]
                piece = piece_at[node]
                if piece >= 0:
                    has_single = has_single or j == i
                    weight = lifted[piece] * lifts[j - i + 1]
                    begins[num_edges], ends[num_edges] = i, j + 1
                    pieces[num_edges], weights[num_edges] = piece, weight
                    num_edges += 1
                    forward[j + 1] += forward[i] * weight
            if not has_single:
                begins[num_edges], ends[num_edges] = i, i + 1
                pieces[num_edges], weights[num_edges] = NONE, lost
                num_edges += 1
                forward[i + 1] += forward[i] * lost
        backward[:size] = 0.0
        backward[size] = 1.0
        whole = forward[size]
        if not 0.0 < whole < np.inf:
            continue
        total += counts[word] * (np.log(whole) - LIFT * size)
        for edge in range(num_edges - 1, -1, -1):
            behind = weights[edge] * backward[ends[edge]]
            backward[begins[edge]] += behind
            if pieces[edge] >= 0:
                expected[pieces[edge]] += counts[word] * forward[begins[edge]] * behind / whole
    return total


@kernel
def _best_path(
    codes: Ints, first: int, size: int, scores: Floats, unknown: float, left_out: int,
    keys: Hashes, children: Ints, piece_at: Ints, best: Floats, came: Ints, used: Ints,
) -> Any:  # fmt: skip
    """The best path through codes[first : first + size] without one piece: its log-probability.

    came, used: for each node where the path comes from, and by which piece (NONE: unknown).
    """
    best[: size + 1] = -np.inf
    best[0] = 0.0
    for i in range(size):
        node, has_single = 0, False
        for j in range(i, min(size, i + MAX_PIECE)):
            slot = _place(keys, node, codes[first + j])
            if keys[slot] == EMPTY:
                break
            node = children[slot]
            piece = piece_at[node]
            if piece >= 0:
                has_single = has_single or j == i
                if piece != left_out and best[i] + scores[piece] > best[j + 1]:
                    best[j + 1] = best[i] + scores[piece]
                    came[j + 1], used[j + 1] = i, piece
        if not has_single and best[i] + unknown > best[i + 1]:
            best[i + 1] = best[i] + unknown
            came[i + 1], used[i + 1] = i, NONE
    return best[size]


@kernel
def count_best(
    codes: Ints, bounds: Longs, counts: Longs, scores: Floats, unknown: float,
    keys: Hashes, children: Ints, piece_at: Ints, frequency: Floats,
) -> None:  # fmt: skip
    """Add to `frequency` how often each piece is in the best paths of the words."""
    best = np.empty(MAX_WORD + 1)
    came, used = np.empty(MAX_WORD + 1, np.int32), np.empty(MAX_WORD + 1, np.int32)
    for word in range(counts.size):
        first, size = bounds[word], bounds[word + 1] - bounds[word]
        _best_path(
            codes, first, size, scores, unknown, -2, keys, children, piece_at, best, came, used
        )
        node = size
        while node > 0:
            if used[node] >= 0:
                frequency[used[node]] += counts[word]
            node = came[node]


@kernel
def find_losses(
    codes: Ints, starts: Longs, lengths: Longs, scores: Floats, unknown: float,
    keys: Hashes, children: Ints, piece_at: Ints, frequency: Floats, losses: Floats,
) -> None:  # fmt: skip
    """How much likelihood goes with each piece if its best replacement takes its place.

    losses: inf for a piece that must stay, -inf for one that nothing uses.
    """
    whole = frequency.sum()
    log_whole = np.log(whole)
    best = np.empty(MAX_WORD + 1)
    came, used = np.empty(MAX_WORD + 1, np.int32), np.empty(MAX_WORD + 1, np.int32)
    for piece in range(starts.size):
        if lengths[piece] == 1:
            losses[piece] = np.inf
            continue
        score = _best_path(
            codes, starts[piece], lengths[piece], scores, unknown, piece,
            keys, children, piece_at, best, came, used,
        )  # fmt: skip
        if frequency[piece] == 0.0:
            losses[piece] = -np.inf
            continue
        if score > scores[piece]:
            losses[piece] = np.inf
            continue
        num_parts, node = 0, np.int64(lengths[piece])
        while node > 0:
            num_parts += 1
            node = came[node]
        log_after = np.log(whole + frequency[piece] * (num_parts - 1))
        instead, node = 0.0, np.int64(lengths[piece])
        while node > 0:
            other = frequency[used[node]] if used[node] >= 0 else 0.0
            instead += np.log(other + frequency[piece]) - log_after
            node = came[node]
        losses[piece] = frequency[piece] * (np.log(frequency[piece]) - log_whole - instead)
