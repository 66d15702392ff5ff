"""kill -9 of processes that share a run, and of runs over Ray, at random moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from shard_runs import (
    RAY,
    check_outputs,
    done_units,
    line,
    link_inputs,
    make,
    needs_ray,
    slurm,
    start,
)
from support import run_llm

ARRAY = ("--executor", "slurm", "--workers", "1")
TASKS = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("made"))


def kill(process: subprocess.Popen[bytes], *, is_whole: bool) -> None:
    """The process alone, whose workers find out, or with all that it started."""
    if process.poll() is not None:
        # It came to its end by itself, and its group is gone with it.
        return
    os.killpg(process.pid, signal.SIGKILL) if is_whole else process.kill()


def kill_tasks_often(made: Path, folder: Path, kills: int, seed: int) -> None:
    """Tasks of an array are killed and started again; when none is killed any more, all is well."""
    chance = random.Random(seed)
    tasks = [start(folder, *ARRAY, **slurm(index, TASKS)) for index in range(TASKS)]
    for _ in range(kills):
        # As they begin, and in the middle of units, of lists and of joining.
        time.sleep(chance.uniform(0.02, 1.2))
        index = chance.randrange(TASKS)
        kill(tasks[index], is_whole=chance.random() < 0.5)
        tasks[index].communicate(timeout=100)
        tasks[index] = start(folder, *ARRAY, **slurm(index, TASKS))
    said = [task.communicate(timeout=300)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0] * TASKS, b"\n".join(said).decode()
    check_outputs(folder, made)
    # Nobody knows of killed tasks any more.
    assert not (folder / "work" / ".claims").exists()
    assert not any(path.is_dir() for path in (folder / "work").iterdir())


def kill_ray_often(made: Path, folder: Path, kills: int, seed: int) -> None:
    """A run over Ray is killed after a random number of units, in the middle of others."""
    chance = random.Random(seed)
    killed = 0
    while killed < kills:
        process = start(folder, *RAY)
        more = done_units(folder / "work") + chance.randrange(8)
        deadline = time.monotonic() + 200
        while process.poll() is None and done_units(folder / "work") < more:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.1))
        kill(process, is_whole=chance.random() < 0.5)
        _, message = process.communicate(timeout=100)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, message.decode()
        killed += 1
    assert killed > 0
    run_llm(*line("work", *RAY), cwd=folder, timeout=300)
    check_outputs(folder, made)


def test_killed_tasks_of_an_array_are_made_good_by_the_others(made, tmp_path):
    kill_tasks_often(made, link_inputs(made, tmp_path), kills=6, seed=1)


@needs_ray
def test_a_killed_run_over_ray_goes_on(made, tmp_path):
    kill_ray_often(made, link_inputs(made, tmp_path), kills=1, seed=2)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(10))
def test_many_killed_tasks(made, tmp_path, number):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    kill_tasks_often(made, link_inputs(made, tmp_path), kills=20, seed=seed)


@needs_ray
@pytest.mark.soak
@pytest.mark.parametrize("number", range(5))
def test_many_killed_runs_over_ray(made, tmp_path, number):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    kill_ray_often(made, link_inputs(made, tmp_path), kills=5, seed=seed)
