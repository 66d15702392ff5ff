"""Editing fields of an object: what parsers see, and every other byte as it was."""

from __future__ import annotations

import json
import random

import pytest

from llmtools.errors import InputError
from llmtools.formats.json_edit import add_metadata, add_within_metadata, replace_fields


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (b"{}", b'{"a":1}'),
        (b" { \t} ", b' {"a":1 \t} '),
        (b'{"b": 2}', b'{"b": 2,"a":1}'),
        (b'{"b": "}"  } ', b'{"b": "}","a":1  } '),
        (b'{"a": 3, "b":2}', b'{"a": 1, "b":2}'),
        (b'{"b": "\\"a\\""}', b'{"b": "\\"a\\"","a":1}'),
        (b'{"\\u0061": 3}', b'{"\\u0061": 1}'),
        (b'{"b": {"a": 5}}', b'{"b": {"a": 5},"a":1}'),
        (b'{"a": 1.0, "a": 2}', b'{"a": 1.0, "a": 1}'),
    ],
)
def test_a_field_is_replaced_or_appended(raw, wanted):
    assert replace_fields(raw, {"a": 1}) == wanted
    assert json.loads(wanted)["a"] == 1


def test_random_objects_get_the_field_and_keep_the_rest():
    chance = random.Random(2)
    for _ in range(500):
        keys = chance.sample(["a", "é", "metadata", "x y", '"', "\\", "text"], chance.randint(0, 5))
        values = ["s", '{"metadata": 1}', 1.5, None, [1, {"metadata": 2}], {"scores": {"k": 1}}]
        record = {key: chance.choice(values) for key in keys}
        raw = json.dumps(
            record, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 1])
        )
        found = replace_fields(raw.encode(), {"metadata": {"n": 1}, "é": "ü"})
        assert json.loads(found) == record | {"metadata": {"n": 1}, "é": "ü"}
        assert replace_fields(raw.encode(), {"metadata": {"n": 1}, "é": "ü"}, record) == found
        # What is known wrongly does no harm: it is not found.
        wrong = dict.fromkeys(record, "s")
        assert replace_fields(raw.encode(), {"metadata": {"n": 1}, "é": "ü"}, wrong) == found


def test_fields_within_metadata_keep_their_neighbours_bytes():
    raw = b'{"metadata": {"m": 1.00, "scores": {"a": 2.50}}, "text": "t"}'
    found = add_within_metadata(raw, "scores", {"b": 3}, "f:1")
    assert found == b'{"metadata": {"m": 1.00, "scores": {"a": 2.50,"b":3}}, "text": "t"}'
    for bare in (b'{"text":"t"}', b'{"text":"t","metadata":null}'):
        found = add_within_metadata(bare, "scores", {"b": 3}, "f:1")
        assert found == b'{"text":"t","metadata":{"scores":{"b":3}}}'
    assert add_metadata(b'{"metadata":{}}', {"k": 1}, "f:1") == b'{"metadata":{"k":1}}'


@pytest.mark.parametrize("raw", [b'{"metadata": 3}', b'{"metadata": {"scores": []}}'])
def test_what_is_no_object_has_no_place_for_fields(raw):
    with pytest.raises(InputError, match=r"f:1: field 'metadata"):
        add_within_metadata(raw, "scores", {"b": 3}, "f:1")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"text": "a", "b": 1}',
        b'{"b": "text", "text" : "a"}',
        b'{"b": {"text": "a"}, "text": "a"}',
        b'{"b": {"text": "a"}, "\\u0074ext": "a"}',
        b'{"text": "b", "text": "a"}',
        b'{"b": "\\"text\\": \\"a\\"", "text":"a"}',
        b'{"text": "\\u0061"}',
        b'{"text":"a"}',
    ],
)
def test_a_known_value_is_replaced_where_it_stands(raw):
    known = json.loads(raw)
    found = replace_fields(raw, {"text": 'new "text"'}, known)
    assert found == replace_fields(raw, {"text": 'new "text"'})
    assert json.loads(found) == known | {"text": 'new "text"'}
