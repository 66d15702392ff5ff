"""A machine that lacks something: disk space, permission, memory, a steady clock."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.preloaded import Ended, Preloaded
from faults.workshop import JOBS, contents, hidden
from support import LLM, assert_user_error, run_llm
from tiny_chat import save_base

PAGE = 4096
DISK_BYTES = 4 << 20
# A mount of its own: small/ is a disk of a few megabytes, readonly/ takes no writes.
MOUNTS = """
mount -t tmpfs -o size={size} small small && mount -t tmpfs -o size=64k readonly readonly &&
mkdir readonly/there && mount -o remount,ro readonly && exec "$@"
"""


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Preloaded, Path]]:
    """Runs that see the mounts, and their folder; the test sees it through /proc."""
    folder = tmp_path_factory.mktemp("mounts")
    for name in ("small", "readonly"):
        (folder / name).mkdir()
    script = f"cd {folder} && {MOUNTS.format(size=DISK_BYTES)}"
    wrapper = ["unshare", "-Urm", "sh", "-c", script, "sh"]
    try:
        probe = subprocess.run([*wrapper, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare here to make a mount namespace")
    if probe.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {probe.stderr.strip()}")
    server = Preloaded(tmp_path_factory.mktemp("preloaded"), wrapper=wrapper)
    yield server, folder
    server.close()


def seen_by(server: Preloaded, path: Path) -> Path:
    """The path as the runs see it."""
    return Path(f"/proc/{server.pid}/root") / path.relative_to("/")


def leave_free(disk: Path, num_pages: int) -> None:
    """Empty the disk but for a file that leaves so many pages."""
    for path in disk.iterdir():
        subprocess.run(["rm", "-r", str(path)], check=True)
    (disk / "filler").write_bytes(bytes(DISK_BYTES - num_pages * PAGE))


def assert_one_message(ended: Ended, *mentions: str) -> None:
    assert ended.code == 4, ended
    assert not ended.is_hung
    assert ended.message.count("error:") == 1 and "Traceback" not in ended.message, ended.message
    for word in mentions:
        assert word in ended.message, ended.message


@pytest.mark.parametrize("name", JOBS)
def test_a_full_disk_is_one_message_and_leaves_nothing(name, mounted, workshop):
    server, folder = mounted
    job = JOBS[name]
    out = folder / "small" / job.out
    disk = seen_by(server, folder / "small")
    codes = []
    for num_pages in (0, 1, 2, 3, 5, 8, 16, 60):
        leave_free(disk, num_pages)
        ended = server.run(job.arguments(out), cwd=workshop)
        codes.append(ended.code)
        if ended.code == 0:
            continue
        assert_one_message(ended, f"{out}")
        # Large outputs are weighed against the disk before any work.
        assert "No space left" in ended.message or "make room" in ended.message, ended.message
        assert "llmtools-tmp" not in ended.message, ended.message
        assert hidden(disk) == []
        if not job.grows_in_place:
            left = {path.name for path in disk.iterdir()}
            # An output that was whole when its manifest found no place stays.
            assert left == {"filler"} or "manifest" in ended.message, (left, ended.message)
            continue
        (disk / "filler").unlink()
        again = server.run(job.arguments(out), cwd=workshop)
        assert again.code == 0, again.message
    assert codes[0] == 4


@pytest.mark.parametrize("name", JOBS)
def test_a_read_only_place_is_refused_before_any_work(name, mounted, workshop):
    server, folder = mounted
    job = JOBS[name]
    out = folder / "readonly" / "there" / job.out
    ended = server.run(job.arguments(out), cwd=workshop)
    assert_one_message(ended, str(out))
    assert list(seen_by(server, out.parent).iterdir()) == []


@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if job.is_streaming])
def test_a_full_disk_behind_stdout_is_one_message(name, llm, workshop, tmp_path):
    argv = JOBS[name].arguments(tmp_path / "unused")
    argv = argv[: argv.index("-o")]
    ended = llm.run(argv, cwd=workshop, stdout=Path("/dev/full"))
    assert_one_message(ended, "<stdout>", "No space left")
    assert hidden(tmp_path) == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", JOBS)
def test_without_memory_a_run_ends_in_one_message(name, llm, workshop, tmp_path):
    job = JOBS[name]
    limits = [0, 1 << 18, 1 << 20, 4 << 20, 16 << 20]
    if name.startswith(("tokenize", "pack shuffled")):
        # Rust (tokenizers) and LLVM (a kernel's first run) abort where they find no memory; nothing
        # here can catch that.
        limits = limits[-1:]
    for number, limit in enumerate(limits):
        folder = tmp_path / str(number)
        folder.mkdir()
        ended = llm.run(job.arguments(folder / job.out), cwd=workshop, limit_bytes=limit)
        if ended.code != 0:
            assert_one_message(ended, "memory")
            assert hidden(folder) == []


@pytest.mark.parametrize("command", ["dedup documents.jsonl", "generate base hello"])
def test_a_machine_too_small_to_load_the_program_is_one_message(command, workshop):
    limit = "60000" if command.startswith("dedup") else "300000"
    shell = ["sh", "-c", f'ulimit -v {limit}; exec "$@"', "sh"]
    done = subprocess.run(
        [*shell, *LLM, *command.split()], cwd=workshop, capture_output=True, timeout=120
    )
    assert_user_error(done, 4, "out of memory")


@pytest.mark.parametrize("command", ["generate {} hello", "quantize {} --scheme Q8_0 -o {}.gguf"])
def test_a_model_too_large_for_the_memory_is_one_message(command, llm, workshop, tmp_path):
    save_base(tmp_path / "wide", hidden_size=256, intermediate_size=8000)
    argv = command.format(tmp_path / "wide", tmp_path / "wide").split()
    ended = llm.run(argv, cwd=workshop, limit_bytes=24 << 20)
    assert_one_message(ended, "out of memory")
    assert [path.name for path in tmp_path.iterdir()] == ["wide"]


JUMPS = """
import random, time
real, chance = time.time, random.Random(3)
time.time = lambda: real() + chance.choice((-1e9, -3600, 0, 3600, 1e9))
"""


def test_a_clock_that_jumps_changes_no_output_and_no_duration(workshop, tmp_path):
    (tmp_path / "jumps").mkdir()
    (tmp_path / "jumps" / "sitecustomize.py").write_text(JUMPS)
    path = os.environ.get("PYTHONPATH", "")
    env = {"PYTHONPATH": f"{tmp_path / 'jumps'}:{path}"}
    for name in ("dedup", "pretrain"):
        job = JOBS[name]
        for folder, changes in (("steady", None), ("jumping", env)):
            (tmp_path / name / folder).mkdir(parents=True)
            run_llm(*job.arguments(tmp_path / name / folder / job.out), cwd=workshop, env=changes)
        steady, jumping = (contents(tmp_path / name / f) for f in ("steady", "jumping"))
        assert jumping == steady
        manifests = list((tmp_path / name).rglob("*manifest.json"))
        assert manifests
        for manifest in manifests:
            values = json.loads(manifest.read_text())
            assert 0 <= values["wall_s"] < 600 and 0 <= values["cpu_s"] < 600
    lines = (tmp_path / "pretrain" / "jumping" / "run" / "metrics.jsonl").read_text().splitlines()
    for line in lines:
        assert 0 < json.loads(line).get("tokens_per_s", 1) < 1e9
