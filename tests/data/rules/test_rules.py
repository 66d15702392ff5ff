from __future__ import annotations

import pytest

from llmtools.data.rules.chain import Chain
from llmtools.data.rules.table import choose, unused
from llmtools.errors import UsageError
from text_batches import batch_of


def first_failures(
    texts: list[str], rules: str = "length,repetition,symbols", **given: float
) -> list[str | None]:
    chain = Chain(choose(tuple(rules.split(",")), given).build())
    rejects = chain.run(batch_of(texts)).rejects
    found = [rejects.get(row) for row in range(len(texts))]
    return [None if r is None else f"{r.check.rule}/{r.check.measure}" for r in found]


def test_length_bounds_are_inclusive() -> None:
    texts = ["a", "a b", "a b c", "a b c d", ""]
    fails = "length/doc_words"
    found = first_failures(texts, "length", min_doc_words=2, max_doc_words=3)
    assert found == [fails, None, None, fails, fails]


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
    assert first_failures(texts) == [
        None,
        "length/doc_words",
        "repetition/dup_line_frac",
        "symbols/hash_word_ratio",
        "symbols/ellipsis_word_ratio",
        "repetition/top_2_gram",
    ]


def test_rules_apply_in_the_order_given() -> None:
    assert first_failures(["# # #"], "symbols,length") == ["symbols/hash_word_ratio"]


def test_all_mistakes_in_settings_are_named_at_once() -> None:
    given = {"min_doc_words": 9, "max_doc_words": 3, "top_n_grams": ((1, 0.1),)}
    with pytest.raises(UsageError) as caught:
        choose(("lenght", "length", "repetition", "length"), given)
    for part in ("lenght", "did you mean 'length'", "min_doc_words 9", "top_n_grams 1", "twice"):
        assert part in str(caught.value)
    with pytest.raises(UsageError, match="max_symbol_word_ratio must be a number"):
        choose(("symbols",), {"max_symbol_word_ratio": float("nan")})
    with pytest.raises(UsageError, match="a fraction is a number"):
        choose(("repetition",), {"dup_n_grams": ((5, float("nan")),)})


def test_thresholds_of_rules_left_out_are_named() -> None:
    given = {"min_doc_words": 9, "dup_line_frac": 0.1}
    assert unused(choose(("length",), given), given) == ["dup_line_frac"]
