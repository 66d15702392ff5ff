from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from llmtools.errors import InputError
from llmtools.formats.json_edit import add_metadata
from llmtools.formats.replay import Replay

LINES = [b'{"text": "a",  "n":1}', b'{"text":"\\u00e9"}', b'{"text": "c"}']


def read_first(replay: Replay) -> list[str]:
    return [document.text for document in replay.documents(lambda stream: None)]


def test_files_are_read_again(tmp_path: Path) -> None:
    lines, array = tmp_path / "in.jsonl", tmp_path / "in.json"
    lines.write_bytes(b"\n\n".join(LINES))
    array.write_bytes(b'[{"text": "x"}]')
    with Replay([str(lines), str(array)]) as replay:
        assert read_first(replay) == ["a", "é", "c", "x"]
        assert list(replay.raw_records()) == [*LINES, b'{"text":"x"}']


def test_a_pipe_is_kept_for_the_second_reading(tmp_path: Path) -> None:
    source, fifo = tmp_path / "in.jsonl", tmp_path / "fifo"
    source.write_bytes(b"\n".join(LINES))
    os.mkfifo(fifo)
    with subprocess.Popen(["cp", source, fifo]), Replay([str(fifo)]) as replay:
        assert read_first(replay) == ["a", "é", "c"]
        assert list(replay.raw_records()) == LINES


@pytest.mark.parametrize("change", [LINES[:2], [*LINES, LINES[0]], [LINES[0], LINES[2], LINES[1]]])
def test_a_file_that_changes_between_the_readings_is_refused(
    tmp_path: Path, change: list[bytes]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(LINES))
    with Replay([str(path)]) as replay:
        read_first(replay)
        path.write_bytes(b"\n".join(change))
        with pytest.raises(InputError, match=r"in\.jsonl: (changed|grew)"):
            list(replay.raw_records())


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"a": 1.0}', b'{"a": 1.0,"metadata":{"k":2}}'),
        (b"{}", b'{"metadata":{"k":2}}'),
        (b'{"metadata" : null, "a":1}', b'{"metadata" : {"k":2}, "a":1}'),
        (b'{"metadata":{ }}', b'{"metadata":{"k":2 }}'),
        (b'{"metadata": {"k" : [1], "x":1.50} }', b'{"metadata": {"k" : 2, "x":1.50} }'),
    ],
)
def test_metadata_is_added_and_nothing_else_changes(raw: bytes, expected: bytes) -> None:
    assert add_metadata(raw, {"k": 2}, "here") == expected
    assert json.loads(expected)["metadata"]["k"] == 2


@pytest.mark.parametrize(("value", "kind"), [("[1]", "an array"), ('"s"', "a string")])
def test_metadata_that_is_no_object_is_named(value: str, kind: str) -> None:
    with pytest.raises(InputError, match=f"here: field 'metadata' is {kind}"):
        add_metadata(f'{{"metadata": {value}}}'.encode(), {"k": 2}, "here")
