"""Complete-link groups: the kernel beside plain sets, in any number of passes."""

from __future__ import annotations

import random

import numpy as np
import pytest

from llmtools.data.verify import complete_link_reference, verify


def shingle_set(text: str, n: int) -> set[str]:
    words = text.lower().split()
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


def variants(seed: int, num_texts: int = 40) -> list[str]:
    """Texts that are more and less similar to each other, with copies and empty ones."""
    draw = random.Random(seed)
    base = [f"w{i}" for i in range(30)]
    texts = []
    for _ in range(num_texts):
        words = list(base)
        for _ in range(draw.randrange(6)):
            words[draw.randrange(30)] = draw.choice("xyz")
        texts.append(" ".join(words[: draw.choice((30, 30, 28, 2, 0))]).upper())
    return texts


def groups_of(texts: list[str], threshold: float, memory: int | None = None) -> list[int]:
    same_text = np.array([texts.index(text) for text in texts])
    # Two clusters, each of every second document, joined at random places.
    parity = same_text % 2
    root = np.where(parity == 0, 0, int(np.flatnonzero(parity == 1)[0]))
    lengths = np.array([len(text) for text in texts])
    found = verify(
        root, same_text, lengths, lambda: texts, n_grams=2, threshold=threshold, memory=memory
    )
    return found.tolist()


def expected(texts: list[str], threshold: float) -> list[int]:
    first = [texts.index(text) for text in texts]
    out = list(first)
    for parity in range(2):
        members = [n for n, f in enumerate(first) if n == f and f % 2 == parity]
        groups = complete_link_reference([shingle_set(texts[n], 2) for n in members], threshold)
        for n, group in zip(members, groups, strict=True):
            out[n] = members[group]
    return [out[f] for f in first]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_groups_are_those_of_plain_sets(threshold: float) -> None:
    for seed in range(10):
        texts = variants(seed)
        assert groups_of(texts, threshold) == expected(texts, threshold)


def test_members_of_a_group_are_all_similar_to_each_other() -> None:
    texts = variants(3, 80)
    groups = groups_of(texts, 0.7)
    assert len(set(groups)) < len(texts)
    for i, j in zip(*np.triu_indices(len(texts), 1), strict=True):
        a, b = shingle_set(texts[i], 2), shingle_set(texts[j], 2)
        if groups[i] == groups[j] and texts[i] != texts[j]:
            assert len(a & b) >= 0.7 * len(a | b)


def test_passes_with_little_memory_change_nothing() -> None:
    texts = variants(5, 80)
    assert groups_of(texts, 0.8, memory=1) == groups_of(texts, 0.8)


def test_the_check_rejects_single_link() -> None:
    """A chain, each like the next and unlike the one after it, is one group only by single link."""
    words = [f"w{i}" for i in range(60)]
    chain = [" ".join(words[i : i + 40]) for i in range(0, 20, 4)]
    assert len(set(complete_link_reference([shingle_set(t, 2) for t in chain], 0.75))) > 1
