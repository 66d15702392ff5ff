"""Splitting text into words and counting them, against `tokenizers` and plain Python."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from llmtools.tokenizer import split
from llmtools.tokenizer import word_kernel as k
from llmtools.tokenizer.classes import DIGIT, LETTER, NUMBER, SIGN, SPACE, class_table
from llmtools.tokenizer.word_count import WordCounter, WordTable
from toy_tokenizer import ADVERSARIAL, TEXTS

# Signs at which the rules differ, among them the long s, which is an s where case does not count.
SIGNS = "  \n\r\t\u3000\u00a0\x85\u2028\u200b'''sStTrReEvVmMlLdD\u017fabc\u65e5\u062912\u00b2\u2167"
SIGNS += '\u00bd..,!-_"\U0001f44d\u200d\u0301\ufeff\x1c\u2581'
ANY_TEXT = st.one_of(st.text(alphabet=SIGNS), st.text())


def ends(text: str, scanner: int) -> list[int]:
    data = np.frombuffer(text.encode(), np.uint8)
    found = np.empty(len(data) + 1, np.int64)
    return found[: k.split_words(data, scanner, *class_table(), found)].tolist()


def library_ends(text: str, rule: str) -> list[int]:
    """Where the library ends its words; each of its characters is a byte."""
    pieces = [len(piece) for piece, _ in split.pre_tokenizer(rule).pre_tokenize_str(text)]
    return np.cumsum(pieces).tolist() if pieces else []


@pytest.mark.parametrize("rule", sorted(k.SCANNERS))
@settings(max_examples=150)
@given(text=ANY_TEXT)
def test_words_end_where_the_library_ends_them(rule: str, text: str) -> None:
    assert ends(text, k.SCANNERS[rule]) == library_ends(text, rule)


@pytest.mark.parametrize("rule", sorted(k.SCANNERS))
def test_awkward_texts_are_split_as_by_the_library(rule: str) -> None:
    for text in ADVERSARIAL:
        assert ends(text, k.SCANNERS[rule]) == library_ends(text, rule)


def test_the_comparison_rejects_another_rule() -> None:
    assert ends("It's 12345", k.GPT4) != library_ends("It's 12345", "qwen2")
    assert ends("a1  b", k.GPT2) != library_ends("a1  2b", "smollm")


@settings(max_examples=150)
@given(text=ANY_TEXT)
def test_bert_words_are_the_library_s(text: str) -> None:
    pieces = [piece for piece, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)]
    assert counted([text], k.SIGNS) == Counter(pieces)


def test_classes_are_those_of_the_library_for_every_character() -> None:
    index, blocks = class_table()
    flags = blocks.reshape(-1, 256)[index].ravel()
    codes = np.setdiff1d(np.arange(0x110000), np.arange(0xD800, 0xE000))
    text = "".join(map(chr, codes))
    bounds = np.concatenate([[0], np.cumsum(np.bincount(codes >> 14))])
    for flag, pattern in ((LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s")):
        removed = pre_tokenizers.Split(Regex(pattern), behavior="removed")
        for first, last in itertools.pairwise(bounds):
            left = "".join(piece for piece, _ in removed.pre_tokenize_str(text[first:last]))
            assert "".join(chr(c) for c in codes[first:last] if not flags[c] & flag) == left
    assert flags[ord("7")] == NUMBER | DIGIT and flags[ord("!")] == SIGN


def counted(texts: list[str], scanner: int, memory_bytes: int = 1 << 30) -> Counter[str]:
    with WordCounter(scanner, memory_bytes) as counter:
        counter.add(texts)
        return as_counter(counter.table())


def as_counter(table: WordTable) -> Counter[str]:
    words = [word.decode() for word in table.texts()]
    assert len(set(words)) == len(words)
    return Counter(dict(zip(words, table.counts.tolist(), strict=True)))


def many_words() -> list[str]:
    rng = np.random.default_rng(0)
    return [
        " ".join(f"w{number}" for number in rng.zipf(1.2, 300) if number < 1 << 40)
        for _ in range(1500)
    ]


def test_spilled_counts_are_those_of_plain_counting() -> None:
    texts = many_words()
    expected = Counter(word for text in texts for word in text.split(" ") if word)
    assert len(expected) > 60_000
    with WordCounter(k.SIGNS, 3 << 20) as counter:
        for start in range(0, len(texts), 100):
            counter.add(texts[start : start + 100])
        assert counter.num_runs >= 3
        # Room to train on all of them, so that none is left out.
        counter._memory = 1 << 30
        table = counter.table()
    assert as_counter(table) == expected
    assert table.num_read == sum(expected.values()) and table.num_left_out == 0
    assert table.counts.dtype == np.int64


def test_the_rarest_words_are_left_out_where_training_would_not_fit() -> None:
    texts = many_words()
    expected = Counter(word for text in texts for word in text.split(" ") if word)
    tables = []
    for order in (texts, texts[::-1]):
        with WordCounter(k.SIGNS, 4 << 20) as counter:
            counter.add(order)
            tables.append(counter.table())
    table = tables[0]
    kept = as_counter(table)
    assert table.least > 1
    assert kept == Counter({word: n for word, n in expected.items() if n >= table.least})
    assert table.words.size + len(kept) <= (4 << 20) // 24
    assert table.num_left_out == len(expected) - len(kept)
    assert table.num_read_left_out == sum(expected.values()) - sum(kept.values())
    # Fewer would fit with every word of the next lower count.
    rarer = sum(len(w) + 1 for w, n in expected.items() if n >= table.least - 1)
    assert rarer > (4 << 20) // 24
    assert as_counter(tables[1]) == kept


def test_a_word_longer_than_a_batch_is_one_word() -> None:
    assert counted(["a" * 5_000_000, "b"], k.GPT2) == Counter({"a" * 5_000_000: 1, "b": 1})


def test_a_word_ends_with_its_text() -> None:
    assert counted(["ab", "ab", "", "abab"], k.GPT4) == Counter({"ab": 2, "abab": 1})
    assert counted(TEXTS, k.CHARACTERS) == Counter("".join(TEXTS))
