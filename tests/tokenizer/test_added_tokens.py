"""The list of added tokens is the same, read alone or with the whole file."""

from __future__ import annotations

import json

import pytest

from llmtools.tokenizer.added_tokens import added_tokens, without_special

ADDED = [
    {"id": 1, "content": 'a "added_tokens": [] ]', "special": True},
    {"id": 2, "content": "\u4e2d]", "special": False},
]
FILES = [
    {"added_tokens": ADDED, "model": {"vocab": {"a": 0}}},
    {"model": {"vocab": {"added_tokens": 0}}, "added_tokens": ADDED},
    {"model": {"vocab": {"added_tokens": 0, "x": 1}}},
    {"model": {"vocab": {'"added_tokens"': 0}}, "added_tokens": []},
    {"model": {}, "added_tokens": None},
    {"model": {}},
]


@pytest.mark.parametrize("fields", FILES)
@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"ensure_ascii": False}])
def test_the_list_is_that_of_the_whole_file(fields, options):
    text = json.dumps(fields, **options)
    expected = fields.get("added_tokens") or []
    assert added_tokens(text) == expected
    kept = [token for token in expected if not token["special"]]
    found = json.loads(without_special(text))
    assert (found.get("added_tokens") or []) == kept
    assert {k: v for k, v in found.items() if k != "added_tokens"} == {
        k: v for k, v in fields.items() if k != "added_tokens"
    }


@pytest.mark.parametrize("text", ["[]", '{"added_tokens": [', "x", '{"added_tokens": [1,}'])
def test_what_is_no_such_file_is_an_error(text):
    with pytest.raises((ValueError, AttributeError)):
        added_tokens(text)
