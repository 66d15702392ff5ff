"""The grammar of `llm run`."""

from __future__ import annotations

import pytest

from llmtools.errors import UsageError
from llmtools.shards.pipeline import check_names, phases, split_stages
from llmtools.shards.unit import Stage


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("extract a | dedup -o b", [["extract", "a"], ["dedup", "-o", "b"]]),
        ("extract a|dedup", [["extract", "a"], ["dedup"]]),
        ("llm extract a | llm dedup", [["extract", "a"], ["dedup"]]),
        ("filter 'a b' \"c|d\" e\\ f", [["filter", "a b", "c|d", "e f"]]),
        ("filter '' x", [["filter", "", "x"]]),
        ("filter *.jsonl x'y'z", [["filter", "*.jsonl", "xyz"]]),
        ("filter '$HOME' \"a\\$b\" \\> '>'", [["filter", "$HOME", "a$b", ">", ">"]]),
        ("filter a \\\n  | dedup\n", [["filter", "a"], ["dedup"]]),
    ],
)
def test_one_string_is_split_as_a_shell_splits_it(text, stages):
    assert split_stages([text]) == stages


def test_several_words_are_taken_as_they_are():
    words = ["extract", "my site", "$x", "|", "dedup", "-o", "a>b"]
    assert split_stages(words) == [["extract", "my site", "$x"], ["dedup", "-o", "a>b"]]


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ("", "empty"),
        ("extract a |", "empty"),
        ("| dedup", "empty"),
        ("extract a | | dedup", "empty"),
        ("extract a || dedup", "'||'"),
        ("extract a |& dedup", "'|&'"),
        ("extract a > b", "'>'"),
        ("extract a 2>&1", "'>&'"),
        ("extract a < b", "'<'"),
        ("extract a && dedup b", "'&&'"),
        ("extract a; dedup b", "';'"),
        ("(extract a)", "'('"),
        ("extract $HOME", "variables"),
        ('extract "$HOME"', "variables"),
        ("extract `ls`", "variables"),
        ("extract 'a", "never closed"),
        ('extract "a', "never closed"),
    ],
)
def test_what_only_a_shell_understands_is_refused(text, mention):
    with pytest.raises(UsageError, match="(?s)" + mention.replace("|", "\\|").replace("(", "\\(")):
        split_stages([text])


@pytest.mark.parametrize(
    ("names", "mention"),
    [
        (["fliter", "dedup"], "did you mean 'filter'"),
        (["filter", "pretrain"], "'pretrain' is no stage"),
        (["filter", "extract"], "extract reads files"),
        (["tokenize", "dedup"], "dedup reads documents, but tokenize gives token frames"),
        (["pack", "dedup"], "but pack gives packed rows"),
        (["filter", "detokenize"], "detokenize reads token frames"),
        (["tokenizer"], "write tokenizer train"),
    ],
)
def test_stages_must_be_known_and_fit(names, mention):
    assert any(mention in mistake for mistake in check_names([[name] for name in names]))


def titles(*names: str, **values: str) -> list[list[str]]:
    stages = [Stage(name=name, values=values) for name in names]
    return [[stage.name for stage in phase.stages] for phase in phases(stages)]


def test_stages_join_in_one_unit_only_where_ids_are_certain():
    assert titles("extract", "filter", "tokenize") == [["extract", "filter", "tokenize"]]
    assert titles("filter", "tokenize") == [["filter"], ["tokenize"]]
    assert titles("extract", "filter", id_key="url") == [["extract"], ["filter"]]
    assert titles("extract", "filter", "dedup", "tokenize", "pack") == [
        ["extract", "filter"],
        ["dedup"],
        ["tokenize"],
        ["pack"],
    ]
