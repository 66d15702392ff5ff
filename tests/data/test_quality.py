from __future__ import annotations

import dataclasses
import inspect

import pytest

from llmtools.commands.filter import _limits, filter_
from llmtools.data.quality import (
    QualitySettings,
    checks,
    count_words,
    judge,
    measure,
    symbol_ratios,
)
from llmtools.errors import UsageError
from text_batches import batch_of


def first_failures(texts: list[str], settings: QualitySettings) -> list[str | None]:
    verdicts = judge(measure(batch_of(texts), settings), checks(settings))
    return [None if v is None else f"{v.check.rule}/{v.check.measure}" for v in verdicts]


def test_a_word_counts_when_it_holds_a_letter_or_digit() -> None:
    assert count_words("one -- two, 3) # … ** a_b ünï 日本") == 6


def test_symbol_ratios_are_per_word() -> None:
    assert symbol_ratios("# one two... three… ....") == (1 / 5, 3 / 5)
    assert symbol_ratios(" \n") == (0.0, 0.0)


def test_length_bounds_are_inclusive() -> None:
    settings = QualitySettings(rules=("length",), min_doc_words=2, max_doc_words=3)
    texts = ["a", "a b", "a b c", "a b c d", ""]
    fails = "length/doc_words"
    assert first_failures(texts, settings) == [fails, None, None, fails, fails]


def test_each_rule_drops_what_it_is_for() -> None:
    plain = " ".join(f"word{i}" for i in range(60))
    texts = [
        plain,
        "short",
        "\n".join(["the same line again"] * 30),
        plain.replace("1", "1#"),
        plain.replace("1", "1..."),
        plain + " spam eggs" * 12,
    ]
    assert first_failures(texts, QualitySettings()) == [
        None,
        "length/doc_words",
        "repetition/dup_line_frac",
        "symbols/hash_word_ratio",
        "symbols/ellipsis_word_ratio",
        "repetition/top_2_gram",
    ]


def test_rules_apply_in_the_order_given() -> None:
    settings = QualitySettings(rules=("symbols", "length"))
    assert first_failures(["# # #"], settings) == ["symbols/hash_word_ratio"]


def test_all_mistakes_in_settings_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        QualitySettings(
            rules=("lenght",), min_doc_words=9, max_doc_words=3, top_n_grams=((1, 0.1),)
        )
    for part in ("lenght", "did you mean 'length'", "min_doc_words 9", "top_n_grams 1"):
        assert part in str(caught.value)
    with pytest.raises(UsageError, match="hash_word_ratio must be a number"):
        QualitySettings(max_symbol_word_ratio=float("nan"))


def test_the_commands_defaults_are_the_librarys() -> None:
    settings = QualitySettings()
    given = {k: p.default for k, p in inspect.signature(filter_).parameters.items()}
    for field in dataclasses.fields(settings):
        value = given[field.name]
        if field.name == "rules":
            value = tuple(value.split(","))
        elif field.name.endswith("n_grams"):
            value = _limits(field.name, value)
        assert value == getattr(settings, field.name), field.name
