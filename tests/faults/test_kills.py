"""Runs that are killed, interrupted, or whose reader leaves, at random moments of every command."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from pathlib import Path

import pytest

from faults.preloaded import Ended, Preloaded, moment
from faults.workshop import JOBS, Job, contents, hidden
from support import LLM

KILLS, SIGNALS = 3, 3
SOAK_RUNS = 50


@pytest.fixture(scope="module")
def whole(
    llm: Preloaded, workshop: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict[str, bytes], float]]:
    """What every job leaves when nothing disturbs it, and its time."""
    results = {}
    for name, job in JOBS.items():
        folder = tmp_path_factory.mktemp("whole")
        ended = llm.run(job.arguments(folder / job.out), cwd=workshop)
        assert ended.code == 0, f"{name}: {ended.message}"
        assert hidden(folder) == []
        results[name] = contents(folder), ended.seconds
    return results


def check_nothing_half_written(name: str, folder: Path, expected: dict[str, bytes]) -> None:
    """Whatever stands at a final path is the whole output; a training run's steps are whole."""
    job = JOBS[name]
    visible = {k: v for k, v in contents(folder).items() if not k.startswith(".") and "/." not in k}
    for path, data in visible.items():
        if job.grows_in_place:
            if path.startswith(f"{job.out}/step-"):
                step = path.split("/")[1]
                assert f"{job.out}/{step}/state/place.json" in visible, f"{step} is half there"
        else:
            assert data == expected.get(path), f"{path} is half there"


def kill_and_run_again(
    llm: Preloaded, name: str, cwd: Path, folder: Path, chance: random.Random,
    whole: tuple[dict[str, bytes], float],
) -> None:  # fmt: skip
    """kill -9, sometimes twice, then the same command: the bytes are those of a quiet run."""
    expected, seconds = whole
    job = JOBS[name]
    argv = job.arguments(folder / job.out)
    for _ in range(chance.choice((1, 1, 2))):
        killed = llm.run(argv, cwd=cwd, signals=[(moment(chance, seconds), signal.SIGKILL)])
        # A run that was through before the kill leaves an output, which the next one refuses.
        assert killed.code in (-signal.SIGKILL, 0, 2), killed.message
        check_nothing_half_written(name, folder, expected)
    again = llm.run(argv, cwd=cwd)
    if again.code == 2:
        assert "exists; choose another output" in again.message, again.message
        again = llm.run([*argv, "-f"], cwd=cwd)
    assert again.code == 0, again.message
    assert contents(folder) == expected
    assert hidden(folder) == []


@pytest.mark.parametrize("name", JOBS)
def test_a_killed_run_is_made_good_by_the_same_command(name, llm, workshop, whole, tmp_path):
    chance = random.Random(f"kill {name}")
    for number in range(KILLS):
        folder = tmp_path / str(number)
        folder.mkdir()
        kill_and_run_again(llm, name, workshop, folder, chance, whole[name])


@pytest.mark.soak
@pytest.mark.parametrize("name", JOBS)
def test_many_killed_runs_are_made_good(name, llm, workshop, whole, tmp_path):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for number in range(SOAK_RUNS):
        folder = tmp_path / str(number)
        folder.mkdir()
        kill_and_run_again(llm, name, workshop, folder, chance, whole[name])


def interrupt(
    llm: Preloaded, name: str, cwd: Path, folder: Path, chance: random.Random,
    whole: tuple[dict[str, bytes], float],
) -> None:  # fmt: skip
    """A signal, or two or three in quick succession: the right exit code, and nothing left."""
    expected, seconds = whole
    job = JOBS[name]
    number = chance.choice((signal.SIGTERM, signal.SIGINT))
    times = [moment(chance, seconds)] + [
        chance.uniform(0, 0.02) for _ in range(chance.choice((0, 1, 2)))
    ]
    argv = job.arguments(folder / job.out)
    ended = llm.run(argv, cwd=cwd, signals=[(at, number) for at in times])
    check_interrupted(ended, job, number)
    check_nothing_half_written(name, folder, expected)
    assert hidden(folder) == [], f"left after {ended}"
    if job.grows_in_place and ended.code == 5:
        assert "continue with:" in ended.message
        again = llm.run(argv, cwd=cwd)
        assert again.code == 0, again.message
        # The step at which the signal came was saved too.
        steps = {path.split("/")[1] for path in expected if "/step-" in path}
        extra = {path for path in contents(folder) if "/step-" in path} - expected.keys()
        assert not steps & {path.split("/")[1] for path in extra}
        assert {k: v for k, v in contents(folder).items() if k not in extra} == expected


def check_interrupted(ended: Ended, job: Job, number: int) -> None:
    allowed = {0, 128 + number} | ({5} if job.grows_in_place else set())
    assert ended.code in allowed, ended
    assert not ended.is_hung
    for word in ("Traceback", "Exception ignored", "internal error"):
        assert word not in ended.message, ended.message


@pytest.mark.parametrize("name", JOBS)
def test_an_interrupted_run_leaves_no_trace(name, llm, workshop, whole, tmp_path):
    chance = random.Random(f"signal {name}")
    for number in range(SIGNALS):
        folder = tmp_path / str(number)
        folder.mkdir()
        interrupt(llm, name, workshop, folder, chance, whole[name])


@pytest.mark.soak
@pytest.mark.parametrize("name", JOBS)
def test_many_interrupted_runs_leave_no_trace(name, llm, workshop, whole, tmp_path):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for number in range(SOAK_RUNS):
        folder = tmp_path / str(number)
        folder.mkdir()
        interrupt(llm, name, workshop, folder, chance, whole[name])


@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if job.is_streaming])
def test_a_reader_that_leaves_ends_the_command_silently(name, workshop, tmp_path):
    argv = JOBS[name].arguments("{out}")
    argv = argv[: argv.index("-o")]
    if "--rejects" in argv:
        at = argv.index("--rejects")
        argv[at : at + 2] = ["--rejects", str(tmp_path / "rejects")]
    # More than a pipe holds, so that the command is still writing when the reader goes.
    if argv[1] == "documents.jsonl":
        big = tmp_path / "big.jsonl"
        chance = random.Random(1)
        texts = ("".join(chance.choices("abcdefgh ijklmnop", k=3000)) for _ in range(200))
        lines = [json.dumps({"id": f"{n}", "text": text}) for n, text in enumerate(texts)]
        big.write_text("\n".join(lines))
        argv[1] = str(big)
    elif argv[1] == "frames.safetensors":
        argv[1:2] = [argv[1]] * 12
    else:
        argv[1:2] = ["tree"] * 12
    with subprocess.Popen(
        [*LLM, *argv], cwd=workshop, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None and run.stderr is not None
        assert len(run.stdout.read(100)) == 100
        run.stdout.close()
        message = run.stderr.read().decode()
    assert (run.returncode, message) == (128 + signal.SIGPIPE, "")
    assert hidden(tmp_path) == [] and not (tmp_path / "rejects").exists()
