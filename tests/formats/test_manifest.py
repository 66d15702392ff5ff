"""Manifests, the store that keeps them by digest, and drop logs."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from llmtools.errors import InputError
from llmtools.formats import manifest_store
from llmtools.formats.drop_log import BLOB_DOCUMENTS, DropLog, find_drops
from llmtools.formats.manifest import Recorder, digest_file, read_manifest
from llmtools.formats.output import open_output
from llmtools.formats.stream import open_input


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return manifest_store.folder()


def written(path: Path, data: bytes, settings: dict[str, object] | None = None) -> Recorder:
    recorder = Recorder("test", settings or {})
    with open_output(str(path), force=True) as out:
        out.write(data)
    recorder.wrote(out)
    recorder.write_beside(path)
    return recorder


def test_the_id_follows_settings_and_inputs_but_no_path_or_time(tmp_path: Path) -> None:
    def identity(data: bytes, name: str = "in", **settings: object) -> str:
        (tmp_path / name).write_bytes(data)
        recorder = Recorder("test", {"seed": 1, "data": {"path": name}, **settings})
        recorder.read_path(tmp_path / name)
        return recorder.id

    assert identity(b"a") == identity(b"a", "other")
    assert len({identity(b"a"), identity(b"b"), identity(b"a", seed=2)}) == 3


def test_a_manifest_is_found_by_stored_bytes_inner_bytes_and_id(tmp_path: Path) -> None:
    recorder = written(tmp_path / "a.jsonl.zst", b'{"text": "x"}\n')
    with open_input(str(tmp_path / "a.jsonl.zst")) as stream:
        inner = stream.read()
    (tmp_path / "copy.jsonl").write_bytes(inner)
    for digest in (
        digest_file(tmp_path / "a.jsonl.zst")[1],
        digest_file(tmp_path / "copy.jsonl")[1],
        recorder.id,
    ):
        (found,) = manifest_store.manifests_of(digest)
        assert json.loads(found.read_bytes())["id"] == recorder.id
    assert manifest_store.manifests_of("0" * 32) == []
    assert manifest_store.manifests_of("../../etc") == []


def test_the_same_bytes_made_twice_keep_both_manifests(tmp_path: Path) -> None:
    one = written(tmp_path / "a", b"same", {"way": 1})
    two = written(tmp_path / "b", b"same", {"way": 2})
    again = written(tmp_path / "a", b"same", {"way": 1})
    assert one.id == again.id
    found = manifest_store.ids_of(digest_file(tmp_path / "a")[1])
    assert sorted(found) == sorted([one.id, two.id])


def test_a_store_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    written(tmp_path / "a", b"x")
    assert read_manifest(tmp_path / "a") is not None
    assert "cannot keep the manifest" in capsys.readouterr().err


def test_files_listed_with_their_size_are_not_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    (folder / "train-0.bin").write_bytes(b"one")
    recorder = Recorder("pack", {})
    recorder.wrote_tree(folder)
    recorder.write_beside(folder)
    reader = Recorder("pretrain", {})
    listed = reader.read_tree(folder, "train-*")
    assert reader.inputs[0]["digest_from"] == "manifest.json"
    # A file that was written after its manifest is read, though it has the listed size.
    (folder / "train-0.bin").write_bytes(b"two")
    later_ns = (folder / "manifest.json").stat().st_mtime_ns + 1_000_000
    os.utime(folder / "train-0.bin", ns=(later_ns, later_ns))
    assert Recorder("pretrain", {}).read_tree(folder, "train-*") != listed
    (folder / "train-0.bin").write_bytes(b"one")
    os.remove(folder / "manifest.json")
    assert Recorder("pretrain", {}).read_tree(folder, "train-*") == listed
    (folder / "train-0.bin").write_bytes(b"longer")
    assert Recorder("pretrain", {}).read_tree(folder, "train-*") != listed


def test_a_drop_log_gives_back_every_drop(tmp_path: Path) -> None:
    log = DropLog()
    count = BLOB_DOCUMENTS + 3
    for number in range(count):
        log.add(number, f"rule {number % 3}", number / 2)
    ids = np.arange(count, count + 5, dtype=np.uint64)
    log.add_twins("near", ids, ids - np.uint64(count))
    path = tmp_path / "drops"
    path.write_bytes(log.data())
    assert log.num_documents == count + 5
    assert len(path.read_bytes()) < 22 * log.num_documents + 2000
    (drop,) = find_drops(path, count - 1)
    assert (drop.rule, drop.value) == (f"rule {(count - 1) % 3}", (count - 1) / 2)
    (twin,) = find_drops(path, count + 4)
    assert (twin.rule, twin.value, twin.kept_id) == ("near", None, 4)
    assert find_drops(path, 1 << 63) == []


@pytest.mark.parametrize("damage", ["cut", "rules", "length", "empty"])
def test_a_damaged_drop_log_is_refused(tmp_path: Path, damage: str) -> None:
    log = DropLog()
    log.add(1, "a", 0.5)
    data = log.data()
    broken = {
        "cut": data[:-1],
        "rules": data.replace(b'[\\"a\\"]', b"[     ]"),
        "length": data[:8] + data[8:].replace(b'"shape":[1]', b'"shape":[9]', 1),
        "empty": b"{}" + data,
    }[damage]
    path = tmp_path / "drops"
    path.write_bytes(broken)
    with pytest.raises(InputError, match="drops"):
        find_drops(path, 1)


def test_an_output_to_a_pipe_is_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pipe:
        buffer = io.BytesIO()

    monkeypatch.setattr("sys.stdout", Pipe())
    recorder = Recorder("test", {})
    with open_output("-") as out:
        out.write(b"through a pipe")
    recorder.wrote(out)
    recorder.write_beside("-")
    (tmp_path / "there").write_bytes(Pipe.buffer.getvalue())
    assert manifest_store.ids_of(digest_file(tmp_path / "there")[1]) == [recorder.id]
