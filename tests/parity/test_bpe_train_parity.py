"""Trained vocabularies and merges against the `tokenizers` library's own trainers: all equal.

Tolerance: none. That library numbers the characters within WordPiece's words by the order of a hash
table that differs from run to run, so there both are given these tokens in one order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, trainers

from llmtools.formats.document import read_documents
from llmtools.tokenizer import bpe_train, split, train
from llmtools.tokenizer.train import TrainSettings, count_texts, learn_tokenizer, train_tokenizer
from llmtools.tokenizer.wordpiece_train import learn_wordpieces
from toy_tokenizer import ADVERSARIAL, TEXTS

SPECIALS = ["<|endoftext|>", "the"]


def corpus(shared_data: Path, name: str, num_chars: int) -> list[str]:
    texts, total = [], 0
    for document in read_documents([str(shared_data / "corpora" / f"{name}.jsonl.zst")]):
        texts.append(document.text)
        total += len(document.text)
        if total > num_chars:
            break
    return texts


def library(texts: Sequence[str], vocab_size: int, rule: str, min_frequency: int = 0) -> str:
    built = tokenizers.Tokenizer(models.BPE())
    built.normalizer = split.normalizer(rule)  # type: ignore[assignment]
    built.pre_tokenizer = split.pre_tokenizer(rule)  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[AddedToken(token, special=True) for token in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    built.train_from_iterator(texts, trainer)
    return built.to_str()


def learned(text: str) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    model = json.loads(text)["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return model["vocab"], merges


def ours(texts: Sequence[str], vocab_size: int, rule: str, min_frequency: int = 0) -> str:
    return train_tokenizer(
        texts, vocab_size, pattern=rule, special_tokens=SPECIALS, min_frequency=min_frequency
    ).to_json()


@pytest.mark.parametrize(
    ("name", "rule", "min_frequency"),
    [("prose", "gpt2", 0), ("code", "gpt4", 2), ("multiling", "qwen2", 0), ("code", "smollm", 7)],
)
def test_merges_are_the_library_s(
    shared_data: Path, name: str, rule: str, min_frequency: int
) -> None:
    texts = corpus(shared_data, name, 1_500_000)
    expected = learned(library(texts, 6000, rule, min_frequency))
    assert learned(ours(texts, 6000, rule, min_frequency)) == expected
    assert len(expected[1]) > 2500


@pytest.mark.parametrize("rule", train.TRAIN_PATTERNS)
def test_merges_of_few_awkward_texts_are_the_library_s(rule: str) -> None:
    """Nearly all counts are equal here, so the order among equals decides."""
    texts = [*TEXTS, *ADVERSARIAL, "aaaaaaaaaaa aaaaaaa aaa aaaaaa", "abababa ababab abab"]
    assert learned(ours(texts, 700, rule)) == learned(library(texts, 700, rule))


@pytest.mark.parametrize("seed", range(12))
def test_merges_of_few_letters_are_the_library_s(seed: int) -> None:
    """Runs of one letter, overlapping pairs and equal counts everywhere."""
    rng = np.random.default_rng(seed)
    letters = list("abcd"[: 1 + seed % 4])
    texts = [
        " ".join("".join(rng.choice(letters, rng.integers(1, 30))) for _ in range(rng.integers(99)))
        for _ in range(4)
    ]
    vocab_size = int(rng.integers(300, 1200))
    assert learned(ours(texts, vocab_size, "gpt2")) == learned(library(texts, vocab_size, "gpt2"))


def test_the_comparison_rejects_another_order_among_equals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin numbers bytes from the highest down, so of equal pairs the other comes first."""
    monkeypatch.setattr(train, "sorted", lambda found: sorted(found, reverse=True), raising=False)
    texts = [*TEXTS, *ADVERSARIAL]
    assert learned(ours(texts, 400, "gpt2"))[1] != learned(library(texts, 400, "gpt2"))[1]


@pytest.mark.soak
@pytest.mark.parametrize("rule", ["gpt2", "llama3", "qwen2"])
def test_merges_of_all_corpora_are_the_library_s(shared_data: Path, rule: str) -> None:
    names = ("prose", "code", "multiling")
    texts = [text for name in names for text in corpus(shared_data, name, 1 << 40)]
    assert learned(ours(texts, 32768, rule)) == learned(library(texts, 32768, rule))


def test_wordpieces_are_the_library_s(shared_data: Path) -> None:
    texts = corpus(shared_data, "prose", 1_000_000)
    settings = TrainSettings(vocab_size=3000, model="wordpiece")
    table = count_texts(texts, settings)
    within = sorted({f"##{c}" for word in table.texts() for c in word.decode()[1:]})
    specials = ["[UNK]", *within]
    built = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    built.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    built.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(vocab_size=3000, special_tokens=specials, show_progress=False),
    )
    vocab = built.get_vocab()
    expected = sorted(vocab, key=vocab.__getitem__)
    assert learn_wordpieces(table, specials, 3000) == expected
    twin = learn_wordpieces(table, specials, 3000, min_frequency=200)
    assert twin != expected and twin == expected[: len(twin)]
    # What is written loads and encodes by the longest pieces, as that library's model does.
    tokenizer = learn_tokenizer(table, settings)
    ids = tokenizer.encode("unforgettable words")
    assert tokenizer.decode(ids) == "unforgettable words" and 1 not in ids


def test_words_in_another_order_give_the_same_merges() -> None:
    table = count_texts([*TEXTS, *ADVERSARIAL], TrainSettings(vocab_size=300))
    order = np.random.default_rng(0).permutation(len(table.counts))
    tokens = [bytes([byte]) for byte in range(256)]
    found = []
    for places in (np.arange(len(order)), order):
        words = [table.texts()[place] for place in places]
        starts = np.concatenate([[0], np.cumsum([len(word) for word in words])]).astype(np.int64)
        ids = np.frombuffer(b"".join(words), np.uint8).astype(np.int32)
        symbols = bpe_train.Symbols(ids, starts, table.counts[places])
        found.append(bpe_train.learn_merges(symbols, tokens, 500))
    assert found[0] == found[1]
