from __future__ import annotations

from llmtools.data.duplicates import find_duplicates
from llmtools.data.minhash import MinHashSettings
from text_batches import batch_of

LONG = "the quick brown fox jumps over the lazy dog while eleven cats look on in quiet surprise"


def clusters_of(*texts: str) -> tuple[list[int], list[bool]]:
    found = find_duplicates([batch_of(texts)], MinHashSettings())
    return found.root.tolist(), found.is_exact.tolist()


def test_short_documents_are_only_ever_exact_copies() -> None:
    root, is_exact = clusters_of("Hello, World", "hello world", "Hello, World", "2.", "3.")
    assert root == [0, 1, 0, 3, 4]
    assert is_exact == [False, False, True, False, False]


def test_empty_documents_are_copies_of_each_other() -> None:
    assert clusters_of("", LONG, "", " ")[0] == [0, 1, 0, 3]


def test_case_and_punctuation_make_a_near_copy() -> None:
    root, is_exact = clusters_of(LONG, LONG.upper() + "!", LONG, "something else that is not it")
    assert root == [0, 0, 0, 3]
    assert is_exact == [False, False, True, False]


def test_clusters_reach_across_batches() -> None:
    texts = [LONG, "first of a kind with words enough", LONG.title()]
    found = find_duplicates([batch_of([t]) for t in texts], MinHashSettings())
    assert found.root.tolist() == [0, 1, 0]
    assert found.size.tolist() == [2, 1, 2]
    assert found.counts() == {
        "documents_in": 3,
        "documents_kept": 2,
        "dropped_exact": 0,
        "dropped_near": 1,
        "clusters": 1,
    }


def test_no_documents_make_no_clusters() -> None:
    assert find_duplicates([], MinHashSettings()).root.size == 0
