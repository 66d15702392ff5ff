"""Documents taken by the kernel are those that a JSON parser makes of the same bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtools.formats import document_scan
from llmtools.formats.document import read_documents
from llmtools.formats.document_scan import scan_lines
from llmtools.formats.skips import Skips
from llmtools.formats.stream import open_input, standing_in

characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\/\b\f\n\r\t\x00é—日🙂')
strings = st.text(characters, max_size=80)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["text", "id", "metadata", "url", "te\\xt"]) | strings
objects = st.dictionaries(keys, values, max_size=4) | st.fixed_dictionaries(
    {"text": strings},
    optional={"id": strings, "metadata": st.dictionaries(strings, values, max_size=2)},
)
spellings = st.tuples(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " :\r")]), st.booleans())


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A line as some program might write it, or with a few bytes of it changed."""
    separators, is_ascii = draw(spellings)
    found = json.dumps(draw(objects), separators=separators, ensure_ascii=is_ascii)
    data = bytearray(found.replace("Infinity", "1e999").encode())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        new = draw(st.sampled_from([b"", b'"', b"\\", b"\\u", b"0", b"}", b",", b"\xff", b"\xed"]))
        data[at : at + draw(st.integers(0, 2))] = new
    data = data.replace(b"\n", b" ")
    return bytes(data) + draw(st.sampled_from([b"", b"", b" ", b"\r", b"\r\r"]))


class Pipe(io.RawIOBase):
    """Bytes that come in pieces."""

    def __init__(self, data: bytes, piece: int) -> None:
        super().__init__()
        self._data, self._piece, self._at = data, piece, 0

    def readinto(self, buffer: bytearray) -> int:
        found = self._data[self._at : self._at + min(self._piece, len(buffer))]
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def documents_of(data: bytes, piece: int = 1 << 20) -> list[tuple[object, ...]]:
    """What is read from some bytes, and what is skipped as malformed."""
    skips = Skips("skip", adds_metadata=True)
    faults: list[tuple[object, ...]] = []
    drop = skips.drop

    def note(fault):
        faults.append((fault.where, str(fault), fault.raw))
        drop(fault)

    skips.drop = note
    with standing_in(Pipe(data, piece)):
        read = list(read_documents(["-"], skips=skips))
    for document in read:
        if document.text_span is not None:
            start, stop = document.text_span
            assert json.loads(document.raw[start:stop]) == document.text
        assert document.encoded == document.text.encode()
        assert document.fields["text"] == document.text
    return [(d.raw, d.where, d.id, d.text, json.dumps(d.fields)) for d in read] + faults


@pytest.fixture(params=[1 << 20, 300], ids=["whole", "small-blocks"])
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(document_scan, "READ_BYTES", request.param)
    yield request.param


@given(given_lines=st.lists(lines(), max_size=12), ends=st.booleans(), piece=st.integers(1, 4000))
@pytest.mark.usefixtures("block_bytes")
def test_documents_are_those_of_a_parser(given_lines, ends, piece):
    data = b'{"text":"first"}\n' + b"\n".join(given_lines) + (b"\n" if ends else b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_scan, "LEAST_BYTES", 1 << 40)
        expected = documents_of(data)
        patch.setattr(document_scan, "LEAST_BYTES", 0)
        assert documents_of(data, piece) == expected


def taken(line: bytes, tmp_path) -> bool:
    """Whether the kernel takes a line."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.MonkeyPatch.context() as patch, open_input(str(path)) as stream:
        patch.setattr(document_scan, "LEAST_BYTES", 0)
        ((_, found),) = scan_lines(stream, "text", "id")
    return found is not None


@pytest.mark.parametrize(
    "line",
    [
        b'{"text":"a"}',
        b' {"text" : "a"} '[1:],
        b'{"text":"\\ud83d\\ude42 \\u00e9 \\n\\t\\"","id":"1","n":[1,-0.5,2e-05,{"a":[{}]}]}',
        b'{"metadata":{"url":null,"ok":true},"text":"\xc3\xa9\xf0\x9f\x99\x82"}\r',
    ],
)
def test_a_plain_document_is_taken(line, tmp_path):
    assert taken(line, tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b'{"id":"1"}',
        b'\xef\xbb\xbf{"text":"a"}',
        b' {"text":"a"}',
        b'{"text":"a"',
        b'{"text":"a"}}',
        b'{"text":"a",}',
        b'{"text":"a"} x',
        b'{"text":1}',
        b'{"text":"a","text":"b"}',
        b'{"te\\u0078t":"a"}',
        b'{"text":"a","id":1}',
        b'{"text":"a","id":"\\u0061"}',
        b'{"text":"a","metadata":[]}',
        b'{"text":"\\ud800"}',
        b'{"text":"\\ud800\\u0041"}',
        b'{"text":"\\udc00"}',
        b'{"text":"\\x41"}',
        b'{"text":"\\u00g0"}',
        b'{"text":"a\tb"}',
        b'{"text":"\xed\xa0\x80"}',
        b'{"text":"\xc0\x80"}',
        b'{"text":"\xe0\x80\x80"}',
        b'{"text":"\xf0\x80\x80\x80"}',
        b'{"text":"\xf4\x90\x80\x80"}',
        b'{"text":"\xe2\x82"}',
        b'{"text":"a","n":01}',
        b'{"text":"a","n":1.}',
        b'{"text":"a","n":.5}',
        b'{"text":"a","n":-}',
        b'{"text":"a","n":1e999}',
        b'{"text":"a","n":nul}',
        b'{"text":"a","n":[1,]}',
        b'{"text":"a","n":[1}',
        b'{"text":"a","n":{"a"}}',
        b'{"text":"a","n":' + b"[" * 62 + b"]" * 62 + b"}",
    ],
)
def test_what_is_not_plain_is_left_to_the_parser(line, tmp_path):
    assert not taken(line, tmp_path)


def test_a_line_longer_than_a_block_is_one_document():
    text = "word \n" * 400_000
    data = b"\n".join(json.dumps({"text": own}).encode() for own in ("a" * 70_000, text, "last"))
    assert [found[3] for found in documents_of(data)] == ["a" * 70_000, text, "last"]


def test_keys_that_mean_the_same_field_are_left_to_the_parser(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text":"a"}\n' * 20_000)
    for document in read_documents([str(path)], id_key="text"):
        assert document.id == document.text == "a"
