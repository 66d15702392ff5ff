"""Two runs on one output, and a run that goes on after its inputs or settings have changed."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.preloaded import Ended, Preloaded
from faults.workshop import JOBS, contents, hidden
from llmtools.formats.claim import temporary_for


@pytest.fixture(scope="module")
def other_llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preloaded]:
    server = Preloaded(tmp_path_factory.mktemp("preloaded"))
    yield server
    server.close()


def is_locked(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


# Phases share their work directory by design.
@pytest.mark.parametrize("name", [name for name in JOBS if name != "dedup sign"])
def test_a_second_run_on_an_output_is_refused_and_the_first_one_is_not_disturbed(
    name, llm, other_llm, workshop, tmp_path
):
    job = JOBS[name]
    refused: list[Ended] = []
    argv = job.arguments(tmp_path / job.out)

    def start_another(pid: int) -> None:
        give_up = time.monotonic() + 30
        claim = tmp_path / job.out if job.grows_in_place else temporary_for(tmp_path / job.out)
        while not is_locked(claim) and time.monotonic() < give_up:
            time.sleep(0.0005)
        os.kill(pid, signal.SIGSTOP)
        try:
            refused.append(other_llm.run([*argv, "-f"], cwd=workshop))
        finally:
            os.kill(pid, signal.SIGCONT)

    first = llm.run(argv, cwd=workshop, meanwhile=start_another)
    assert first.code == 0, first.message
    (second,) = refused
    assert second.code == 4 and second.message.count("error:") == 1, second
    assert f"is writing {tmp_path / job.out}" in second.message
    assert "another run (process" in second.message
    assert hidden(tmp_path) == []
    whole = tmp_path / "whole"
    whole.mkdir()
    assert llm.run(job.arguments(whole / job.out), cwd=workshop).code == 0
    found = {k: v for k, v in contents(tmp_path).items() if not k.startswith("whole/")}
    assert found == contents(whole)


CHANGES = {
    "pretrain": [
        ("rows/train-00000.safetensors", "data.digest"),
        ("model.json", "model.config"),
        ("--learning-rate 1e-5", "train.learning_rate"),
        ("--seed 9", "train.seed"),
    ],
    "finetune": [
        ("chats.jsonl", "data.digest"),
        ("base/model.safetensors", "model.digest"),
        ("--lora-r 3", "lora_r"),
    ],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_that_goes_on_with_something_changed_is_refused_naming_it(
    name, llm, workshop, tmp_path
):
    place = tmp_path / "place"
    shutil.copytree(workshop, place)
    job = JOBS[name]
    argv = job.arguments("run")
    # Stopped in the middle, its state saved. Too early there is none, too late the run is done.
    wait, shortest, longest = 0.05, 0.0, 0.0
    for _ in range(20):
        ended = llm.run([*argv, "-f"], cwd=place, signals=[(wait, signal.SIGTERM)])
        if ended.code == 5:
            break
        if ended.code == 0:
            longest = wait
        else:
            shortest = wait
        wait = (shortest + longest) / 2 if longest else 2 * wait
    assert ended.code in (0, 5), ended.message
    before = contents(place / "run")
    for change, word in CHANGES[name]:
        if change.startswith("--"):
            again = llm.run([*argv, *change.split()], cwd=place)
        else:
            file = place / change
            kept = file.read_bytes()
            file.write_bytes(changed(file))
            again = llm.run(argv, cwd=place)
            file.write_bytes(kept)
        assert again.code == 2 and word in again.message, (change, again)
        assert contents(place / "run") == before
    assert llm.run(argv, cwd=place).code == 0


def changed(file: Path) -> bytes:
    """Another file that is as valid."""
    data = file.read_bytes()
    if file.name == "model.json":
        return data.replace(b'"intermediate_size": 48', b'"intermediate_size": 56')
    if file.suffix == ".jsonl":
        return data.replace(b"Paris", b"Lyons")
    if file.parent.name == "rows":
        # A token id of the first row; the header and its length stay.
        at = 8 + int.from_bytes(data[:8], "little")
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    return data[:-1] + bytes([data[-1] ^ 1])
