"""Records: what is read, what is refused, and that untouched bytes stay."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtools.errors import InputError
from llmtools.formats.document import read_documents
from llmtools.formats.json_edit import replace_fields
from llmtools.formats.record import document_hash
from llmtools.formats.records import read_records
from llmtools.formats.skips import Skips

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False,
    allow_infinity=False) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children, max_size=3)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), children, max_size=3),
    max_leaves=8,
)  # fmt: skip
json_objects = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5), json_values, max_size=5
)


def write(tmp_path, data: bytes, name: str = "in.jsonl") -> list[str]:
    path = tmp_path / name
    path.write_bytes(data)
    return [str(path)]


@given(json_objects, json_objects, st.sampled_from([(",", ":"), (", ", ": "), (" , ", "\t:\n ")]))
def test_replacing_fields_changes_nothing_else(record, changes, separators):
    raw = json.dumps(record, separators=separators, ensure_ascii=False).encode()
    changed = replace_fields(raw, changes)
    assert json.loads(changed) == {**record, **changes}
    untouched = {k: v for k, v in record.items() if k not in changes}
    for key, value in untouched.items():
        kept = json.dumps(value, separators=separators, ensure_ascii=False).encode()
        assert kept in changed, key


def test_the_spelling_of_untouched_fields_is_kept():
    raw = b'{"n": 1.50, "s":"\\u00e9\\/", "metadata": {"a" :1}, "t": "x"}'
    expected = b'{"n": 1.50, "s":"\\u00e9\\/", "metadata": {"b":2}, "t": "x","new":null}'
    assert replace_fields(raw, {"metadata": {"b": 2}, "new": None}) == expected


def test_raw_lines_are_kept_byte_for_byte(tmp_path):
    lines = [b'{"text": "a\\u00e9",  "id":1}', b"\xef\xbb\xbf"[:0] + b' {"text":"b"} ']
    records = list(read_documents(write(tmp_path, b"\r\n".join(lines) + b"\n\n  \n")))
    assert [r.raw for r in records] == lines
    assert [r.id for r in records] == ["1", "in.jsonl:2"]


def test_an_array_and_a_text_file_are_read_as_records(tmp_path):
    array = write(tmp_path, b' [{"text": "a"}, {"text": "b"}]', "array.json")
    assert [d.text for d in read_documents(array)] == ["a", "b"]
    text = write(tmp_path, "line é\nline".encode(), "a.txt")
    assert [d.text for d in read_documents(text)] == ["line é\nline"]


@pytest.mark.parametrize(
    ("data", "mentions"),
    [
        (b'{"text": "a"}\n{"text": ', ["in.jsonl:2", "not JSON"]),
        (b'{"text": "a"}\n{"text": "\xff"}\n', ["in.jsonl:2", "UTF-8"]),
        (b'{"text": "a"}\n[1]\n', ["in.jsonl:2", "array"]),
        (b'{"txt": "a"}\n', ["in.jsonl:1", "no field 'text'", "did you mean 'txt'", "--text-key"]),
        (b'{"text": null}\n', ["in.jsonl:1", "'text' is null"]),
        (b'[{"text": "a"}, 3]', ["element 2", "a number"]),
        (b"[1, 2", ["not JSON"]),
    ],
)
def test_a_bad_record_is_named_by_file_line_and_field(data, mentions, tmp_path):
    with pytest.raises(InputError) as caught:
        list(read_documents(write(tmp_path, data)))
    for word in mentions:
        assert word in str(caught.value)


def test_records_need_no_text(tmp_path):
    records = list(read_records(write(tmp_path, b'{"messages": []}\n')))
    assert records[0].fields == {"messages": []} and records[0].where.endswith("in.jsonl:1")


def test_a_documents_hash_is_xxh3_64_of_its_id():
    # xxh3-64 of the empty input, from the reference implementation.
    assert document_hash("") == 0x2D06800538D394C2


@pytest.mark.parametrize("name", ["lines.jsonl", "array.json"])
def test_a_lack_of_memory_is_no_fault_of_the_record(tmp_path, monkeypatch, name):
    def loads(raw: bytes) -> None:
        raise orjson.JSONDecodeError("Not enough memory to allocate buffer for parsing", "", 0)

    inputs = write(tmp_path, b'[{"text": "a"}]' if "array" in name else b'{"text": "a"}', name)
    monkeypatch.setattr(orjson, "loads", loads)
    skips = Skips("skip")
    with pytest.raises(MemoryError):
        list(read_documents(inputs, skips=skips))
    assert skips.count == 0


@pytest.mark.parametrize(
    "magic, kind",
    [(b"PK\x03\x04", "zip"), (b"\xfd7zXZ\x00", "xz"), (b"%PDF-1.7", "PDF")],
)
def test_a_file_of_another_kind_is_named_and_never_skipped_line_by_line(tmp_path, magic, kind):
    inputs = write(tmp_path, magic + b"\x15\n\xff\n" * 30)
    with pytest.raises(InputError, match=rf"in.jsonl: .*{kind}.* give JSON lines"):
        list(read_documents(inputs, skips=Skips("skip")))
    # Only a beginning says so.
    late = write(tmp_path, b'{"text": "a"}\n' + magic + b"\xff\n")
    assert [d.text for d in read_documents(late, skips=Skips("skip"))] == ["a"]
