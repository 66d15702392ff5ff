"""Damaged files of every kind: an answer or one message, in bounded time and memory."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from faults.preloaded import Ended, Preloaded
from fuzz.targets import TARGETS, build_bench, copy_bench, damage

CASES = 12
SOAK_S = 30.0
TIMEOUT_S = 40.0
# All inputs are below a megabyte, but for 100 MB that a few compressed kilobytes may stand for.
BOUND_BYTES = 400 << 20
ADDRESS_BYTES = 4 << 30
NOISE = re.compile(r"Traceback|internal error|Exception ignored|\w+Warning:|panicked at")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preloaded]:
    server = Preloaded(tmp_path_factory.mktemp("preloaded"))
    yield server
    server.close()


def fault_of(ended: Ended, llm: Preloaded, place: Path) -> str | None:
    """What is wrong with how a run on a damaged file ended."""
    if ended.is_hung:
        return f"no answer after {TIMEOUT_S} s"
    is_too_large = ended.code == 4 and "the weights need" in ended.message
    if ended.code not in (0, 1, 2, 3) and not is_too_large:
        return f"exit {ended.code}"
    if NOISE.search(ended.message):
        return "more than a message"
    if ended.peak_bytes - llm.idle_bytes > BOUND_BYTES:
        return f"{(ended.peak_bytes - llm.idle_bytes) >> 20} MiB of memory"
    if ended.code == 0:
        return None
    if not ended.message.strip():
        return "no message"
    if len(ended.message) > 5000:
        return f"a message of {len(ended.message)} characters"
    written = [p.name for p in place.iterdir() if p.name.startswith("out")]
    # A run that began before it met the damage may leave its directory, which holds no model.
    if any((place / name).is_file() for name in written):
        return f"exit {ended.code} and an output, {written}"
    hidden = [str(p) for p in place.rglob(".*")]
    return f"leftovers {hidden}" if hidden else None


def run_case(name: str, seed: str, llm: Preloaded, bench: Path, place: Path) -> str | None:
    """One damaged file, one command; returns a report where it went wrong."""
    chance = random.Random(seed)
    target = TARGETS[name]
    copy_bench(bench, place)
    try:
        damage(place, target, chance)
        command = chance.choice(target.commands)
        ended = llm.run(command.split(), cwd=place, limit_bytes=ADDRESS_BYTES, timeout_s=TIMEOUT_S)
        fault = fault_of(ended, llm, place)
        has_what_it_wished = "MiB of memory" in str(fault) or "out of memory" in ended.message
        if fault is None or (target.is_wish and has_what_it_wished):
            return None
        if ended.code == 70:
            shutil.rmtree(place)
            copy_bench(bench, place)
            damage(place, target, random.Random(seed))
            argv = ["--traceback", *command.split()]
            ended = llm.run(argv, cwd=place, limit_bytes=ADDRESS_BYTES, timeout_s=TIMEOUT_S)
        return f"{fault}: seed {seed!r}: llm {command}\n{ended.message[-1500:]}"
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"code": 70, "message": "error: internal error"}, "exit 70"),
        ({"code": -11}, "exit -11"),
        ({"code": 4, "message": "error: out of memory"}, "exit 4"),
        ({"message": "Traceback (most recent call last)"}, "more than a message"),
        ({"code": 0, "message": "x.py:1: RuntimeWarning: overflow"}, "more than a message"),
        ({"message": ""}, "no message"),
        ({"message": "x" * 6000}, "6000 characters"),
        ({"is_hung": True}, "no answer"),
        ({"peak_bytes": 2 << 30}, "MiB of memory"),
    ],
)
def test_the_judge_of_a_run_finds_each_fault(changes, fault, llm, tmp_path):
    good = Ended(
        code=3, stdout=b"", message="error: file.json: bad", seconds=1.0, peak_bytes=llm.idle_bytes
    )
    assert fault_of(good, llm, tmp_path) is None
    assert fault in str(fault_of(replace(good, **changes), llm, tmp_path))
    (tmp_path / "out.jsonl").touch()
    assert "an output" in str(fault_of(good, llm, tmp_path))


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_ends_in_an_answer_or_one_message(name, llm, bench, tmp_path):
    reports = [
        report
        for number in range(CASES)
        if (report := run_case(name, f"{name} {number}", llm, bench, tmp_path / "case"))
    ]
    assert not reports, "\n\n".join(reports)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_many_damaged_files(name, llm, bench, tmp_path):
    first = random.randrange(1 << 32)
    start, number, reports = time.monotonic(), 0, []
    while time.monotonic() - start < SOAK_S and len(reports) < 5:
        seed = f"{name} {first + number}"
        number += 1
        if report := run_case(name, seed, llm, bench, tmp_path / "case"):
            reports.append(report)
    print(f"{name}: {number} cases from {first}")
    assert not reports, "\n\n".join(reports)
