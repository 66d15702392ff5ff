"""Clusters checked by the true Jaccard similarity of their documents.

MinHash links documents that are probably similar, and chains of links join documents that are not.
Here each cluster is cut into groups whose members are all at least `threshold` similar to each
other (complete link): in input order, a document joins the first group that it fits. Shingles are
n-grams of lower-cased words, words being what stands between white space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from llmtools.data.cluster import Roots
from llmtools.data.shingles import plain_shingles
from llmtools.jit import kernel

Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
# Shingles of a text: one of 8 bytes for every 6 bytes of text or so, twice while they are sorted.
MEMORY_PER_TEXT_BYTE = 3


def verify(
    root: Roots,
    same_text: Roots,
    text_bytes: npt.NDArray[np.int64],
    texts: Callable[[], Iterable[str | None]],
    *,
    n_grams: int,
    threshold: float,
    memory: int | None = None,
) -> Roots:
    """The first document of each one's verified group, (D,).

    root, same_text: (D,) as Signatures.link gives them. text_bytes: (D,) about how long each text
    is. texts: called for every pass over the input, gives all texts; memory: for the shingles of
    one pass, None for no limit.
    """
    out = same_text.copy()
    numbers = np.arange(root.size)
    # Of documents with the same text only the first is looked at; the others go where it goes.
    members = np.flatnonzero(same_text == numbers)
    counts = np.bincount(root[members], minlength=root.size)
    members = members[counts[root[members]] > 1]
    for chosen in _passes(members, root, text_bytes, memory):
        _verify_some(chosen, root, texts(), n_grams, threshold, out)
    return out[same_text]


def _passes(
    members: Integers, root: Roots, text_bytes: npt.NDArray[np.int64], memory: int | None
) -> Iterator[Integers]:
    """Members in groups of whole clusters whose shingles fit into memory together."""
    if memory is None or not members.size:
        yield members
        return
    sizes = np.zeros(root.size, np.int64)
    np.add.at(sizes, root[members], text_bytes[members] * MEMORY_PER_TEXT_BYTE)
    firsts = np.unique(root[members])
    group = np.zeros(root.size, np.int64)
    group[firsts] = np.cumsum(sizes[firsts]) // max(1, memory)
    of_member = group[root[members]]
    for number in np.unique(of_member):
        yield members[of_member == number]


def _verify_some(
    chosen: Integers,
    root: Roots,
    texts: Iterable[str | None],
    n_grams: int,
    threshold: float,
    out: Roots,
) -> None:
    """Decide the clusters of `chosen` (ascending) in one pass over the texts."""
    waiting: dict[int, list[tuple[int, Hashes]]] = {}
    left = dict(
        zip(*(a.tolist() for a in np.unique(root[chosen], return_counts=True)), strict=True)
    )
    wanted = iter(chosen.tolist())
    next_one = next(wanted, None)
    for number, text in enumerate(texts):
        if number != next_one:
            continue
        next_one = next(wanted, None)
        first = int(root[number])
        shingles = plain_shingles(text or "", n_grams)
        waiting.setdefault(first, []).append((number, shingles))
        left[first] -= 1
        if left[first] == 0:
            _decide(waiting.pop(first), threshold, out)


def _decide(members: list[tuple[int, Hashes]], threshold: float, out: Roots) -> None:
    offsets = np.zeros(len(members) + 1, np.int64)
    np.cumsum([shingles.size for _, shingles in members], out=offsets[1:])
    groups = np.full(len(members), -1, np.int64)
    _complete_link(np.concatenate([s for _, s in members]), offsets, threshold, groups)
    for (number, _), group in zip(members, groups.tolist(), strict=True):
        out[number] = members[group][0]


@kernel
def _jaccard(sets: Hashes, offsets: Integers, x: int, y: int, threshold: float) -> float:
    """Similarity of two sorted sets; 0 where their sizes alone rule out `threshold`."""
    i, j = offsets[x], offsets[y]
    i_end, j_end = offsets[x + 1], offsets[y + 1]
    smaller, larger = min(i_end - i, j_end - j), max(i_end - i, j_end - j)
    if smaller == 0 or smaller < threshold * larger:
        return 0.0
    shared = 0
    while i < i_end and j < j_end:
        if sets[i] == sets[j]:
            shared += 1
            i += 1
            j += 1
        elif sets[i] < sets[j]:
            i += 1
        else:
            j += 1
    return float(shared / (smaller + larger - shared))


@kernel
def _complete_link(sets: Hashes, offsets: Integers, threshold: float, groups: Integers) -> None:
    """groups[d] becomes the first member of the group of d."""
    for d in range(groups.size):
        for first in range(d):
            if groups[first] != first:
                continue
            fits = True
            for member in range(first, d):
                if groups[member] == first:
                    fits = _jaccard(sets, offsets, member, d, threshold) >= threshold
                if not fits:
                    break
            if fits:
                groups[d] = first
                break
        if groups[d] < 0:
            groups[d] = d


def complete_link_reference(sets: list[set[str]], threshold: float) -> list[int]:
    """The first member of each one's group, in plain Python."""
    groups: list[list[int]] = []
    for number, own in enumerate(sets):
        for group in groups:
            if all(
                own and len(own & sets[other]) >= threshold * len(own | sets[other])
                for other in group
            ):
                group.append(number)
                break
        else:
            groups.append([number])
    first = {member: group[0] for group in groups for member in group}
    return [first[number] for number in range(len(sets))]
