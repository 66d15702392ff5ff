"""Two runs never write one output, and what a killed one left is taken over."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from llmtools.errors import ResourceError, UsageError
from llmtools.formats import output
from llmtools.formats.claim import lock_directory, take_claim, temporary_for
from llmtools.formats.results import open_results
from llmtools.train.run_directory import open_run

RACE = """
import sys, time
from llmtools.errors import LLMToolsError
from llmtools.formats import output
number, path, start = sys.argv[1:]
time.sleep(max(float(start) - time.time(), 0))
try:
    with output.open_output(path) as sink:
        sink.write(number.encode() * 100_000)
        sink.flush()
        time.sleep(0.5)
except LLMToolsError as fault:
    sys.exit(f"{type(fault).__name__} {fault}")
"""


def test_an_output_that_is_being_written_is_refused_naming_it_and_the_process(tmp_path):
    path = str(tmp_path / "out.jsonl")
    with output.open_output(path) as sink:
        sink.write(b"x")
        for attempt in (
            lambda: output.check_output(path, force=True),
            lambda: take_claim(path, is_directory=False),
        ):
            with pytest.raises(ResourceError) as refused:
                attempt()
            assert f"another run (process {os.getpid()}) is writing {path}" in str(refused.value)
    assert os.listdir(tmp_path) == ["out.jsonl"]
    output.check_output(path, force=True)


def test_of_many_processes_that_start_at_once_one_writes_and_the_others_are_refused(tmp_path):
    import time

    path, start = tmp_path / "out", str(time.time() + 2)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(number), str(path), start], stderr=subprocess.PIPE
        )
        for number in range(6)
    ]
    messages = [run.communicate(timeout=60)[1].decode() for run in runs]
    winners = [number for number, run in enumerate(runs) if run.returncode == 0]
    assert len(winners) == 1, messages
    assert path.read_bytes() == str(winners[0]).encode() * 100_000
    for number, message in enumerate(messages):
        if number != winners[0]:
            assert "another run" in message or "exists" in message
    assert os.listdir(tmp_path) == ["out"]


def test_outputs_claimed_at_the_start_are_held_until_they_are_written(tmp_path):
    paths = [str(tmp_path / "one"), str(tmp_path / "two")]
    with output.claim_outputs(paths, force=False, is_directory=False):
        for path in paths:
            with pytest.raises(ResourceError, match="another run"):
                take_claim(path, is_directory=False)
        with output.open_output(paths[0]) as sink:
            sink.write(b"1")
    assert os.listdir(tmp_path) == ["one"]


def test_a_claim_that_meets_a_finished_output_is_refused_without_force(tmp_path, monkeypatch):
    path = tmp_path / "out"
    monkeypatch.setattr(output, "check_output", lambda path, force: None)
    path.write_bytes(b"of another run, after the first check")
    with pytest.raises(UsageError, match="exists"), output.open_output(str(path)):
        pass
    assert os.listdir(tmp_path) == ["out"]


def test_a_leftover_of_the_other_kind_is_no_obstacle(tmp_path):
    temporary = temporary_for(tmp_path / "out")
    temporary.mkdir()
    (temporary / "shard").write_bytes(b"half")
    with output.open_output(str(tmp_path / "out")) as sink:
        sink.write(b"whole")
    (tmp_path / "out").unlink()
    temporary.write_bytes(b"half")
    with output.atomic_directory(str(tmp_path / "out"), force=True) as folder:
        (folder / "shard").write_bytes(b"whole")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["shard"]


def test_a_directory_whose_replacement_was_cut_short_comes_back(tmp_path):
    aside = tmp_path / ".model.llmtools-old-17"
    aside.mkdir()
    (aside / "weights").write_bytes(b"old")
    with pytest.raises(UsageError, match="exists"):
        with output.atomic_directory(str(tmp_path / "model")):
            pass
    assert (tmp_path / "model" / "weights").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model"]


def test_a_file_output_never_replaces_a_directory_nor_the_other_way(tmp_path):
    with pytest.raises(UsageError, match="is a directory"):
        with output.open_output(str(tmp_path), force=True):
            pass
    (tmp_path / "corpus").write_bytes(b"mine")
    with pytest.raises(UsageError, match="is a file"):
        with output.atomic_directory(str(tmp_path / "corpus"), force=True):
            pass
    for make in (open_run, open_results):
        with pytest.raises(UsageError, match="is a file"):
            make(tmp_path / "corpus", {}, resume=True, force=True)
    assert (tmp_path / "corpus").read_bytes() == b"mine"


def test_a_message_names_the_output_and_not_its_temporary(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(ResourceError) as failed, output.atomic_directory(str(path)) as folder:
        raise ResourceError(f"{folder}/model.safetensors: cannot write: disk full")
    assert str(failed.value) == f"{path}/model.safetensors: cannot write: disk full"


def test_a_locked_directory_is_free_again_when_its_process_is_killed(tmp_path):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from llmtools.formats.claim import lock_directory\n"
        "lock_directory(Path(sys.argv[1]))\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    handle = lock_directory(tmp_path)
    with pytest.raises(ResourceError, match="another run"):
        lock_directory(tmp_path)
    os.close(handle)


def test_an_interruption_deep_inside_a_directory_cleans_up_in_any_order(tmp_path):
    outer = take_claim(str(tmp_path / "rows"), is_directory=True)
    inner = take_claim(str(outer.temporary / "shard"), is_directory=False)
    outer.abandon()
    inner.abandon()
    assert os.listdir(tmp_path) == []
