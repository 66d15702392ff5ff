"""--executor and --shard: whoever runs the units, the output is that of one process."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shard_runs import (
    OUTPUTS,
    RAY,
    check_outputs,
    done_units,
    line,
    link_inputs,
    make,
    needs_ray,
    slurm,
    start,
    wait_until,
)
from support import LLM, assert_user_error, run_llm


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    return link_inputs(made, tmp_path)


def finish(processes: list[subprocess.Popen[bytes]]) -> list[bytes]:
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(said), b"\n".join(said)
    return said


def units_run(report: bytes) -> tuple[int, int]:
    found = json.loads(report)
    return found["units_run"], found["units"]


def test_tasks_of_a_slurm_array_share_the_units(made, here):
    flags = ("--executor", "slurm", "--workers", "1", "--json")
    processes = [start(here, *flags, **slurm(index, 3)) for index in range(3)]
    reports = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], reports
    check_outputs(here, made)
    counts = [units_run(out) for out, _ in reports]
    # Nobody waits for one that is late, so nothing is sure but the sum.
    assert sum(run for run, _ in counts) == counts[0][1] > 10
    assert {path.name.partition("-")[0] for path in (here / "work").iterdir()} == {
        "plan.json", "ledger", "phase",
    }  # fmt: skip
    # One that starts when all is done has nothing to do.
    late = run_llm(*line("work", *flags), cwd=here, env=slurm(1, 3))
    assert units_run(late.stdout)[0] == 0


def test_one_of_many_places_does_the_work_of_those_that_never_come(made, here):
    done = run_llm(*line("work", "--shard", "5/9", "--workers", "2", "--json"), cwd=here)
    assert units_run(done.stdout)[0] == units_run(done.stdout)[1]
    check_outputs(here, made)


def test_commands_share_their_files_too(made, tmp_path):
    base = ["filter", made / "docs.jsonl", "--rules", "length", "--min-doc-words", "20"]
    run_llm(*base, "-o", "alone.jsonl", cwd=tmp_path)
    shared = [*base, "-o", "out.jsonl", "--shard-bytes", "6K", "--work-dir", "work"]
    processes = [
        subprocess.Popen([*LLM, *map(str, shared), "--shard", f"{n}/2"], cwd=tmp_path, stderr=-1)
        for n in range(2)
    ]
    finish(processes)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


@needs_ray
def test_ray_local_and_shards_go_on_with_each_others_work(made, here):
    """Each kind is killed on its way; the last has what is left to do, and the bytes are right."""
    kinds: list[Callable[[], subprocess.Popen[bytes]]] = [
        lambda: start(here, *RAY),
        lambda: start(here, "--shard", "1/3", "--workers", "1"),
        lambda: start(here, "--workers", "2"),
    ]
    begun = 0
    for number, kind in enumerate(kinds):
        process = kind()
        wait_until(lambda n=begun: done_units(here / "work") >= n + 3, process)
        os.killpg(process.pid, 9)
        process.communicate(timeout=100)
        assert process.returncode == -9, f"{number} was through"
        begun = done_units(here / "work")
    done = run_llm(*line("work", *RAY, "--json"), cwd=here, timeout=300)
    assert done.stderr == b""
    run, units = units_run(done.stdout)
    assert 0 < run <= units - begun
    check_outputs(here, made)


@needs_ray
def test_a_failing_unit_is_named_under_ray(made, tmp_path):
    data = (made / "docs.jsonl").read_bytes().splitlines(keepends=True)
    data[100] = b'{"text": 5}\n'
    (tmp_path / "docs.jsonl").write_bytes(b"".join(data))
    (tmp_path / "tok.json").symlink_to(made / "tok.json")
    done = run_llm(*line("work", *RAY), cwd=tmp_path, check=False)
    assert_user_error(done, 3, "docs.jsonl:101: field 'text' is a number", "filter, unit")
    assert done.stderr.count(b"\n") <= 2


@needs_ray
def test_a_cluster_that_is_not_there_is_an_error(here):
    flags = ("--executor", "ray", "--ray-address", "127.0.0.1:1")
    done = run_llm(*line("work", *flags), cwd=here, check=False, timeout=300)
    assert_user_error(done, 4, "Ray at 127.0.0.1:1")


def test_without_ray_the_line_to_install_it_is_shown(here):
    (here / "ray.py").touch()
    hidden = {"PYTHONPATH": f"{here / 'block'}:{os.environ.get('PYTHONPATH', '')}"}
    (here / "block").mkdir()
    (here / "block" / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'ray' else find(name, *a)\n"
    )
    done = run_llm(*line("work", *RAY), cwd=here, check=False, env=hidden)
    assert_user_error(done, 4, "pip install 'llmtools-cli[ray]'")
    assert not (here / "work").exists()


def test_what_processes_that_share_cannot_do_is_refused(made, here):
    shard = ("--shard", "0/2")
    for flags, mention in (
        ((*shard, "--no-resume"), "remove it before they start"),
        (("--shard", "2/2"), "0/8 to 7/8"),
        (("--executor", "slurm"), "SLURM_ARRAY_TASK_ID"),
        ((*shard, "--executor", "ray"), "no place beside --executor ray"),
        (("--ray-address", "auto"), "no effect without --executor ray"),
    ):
        done = run_llm(*line("work", *flags), cwd=here, check=False)
        assert_user_error(done, 2, mention)
    no_place = ["filter", "docs.jsonl", "-o", "x", "--shard", "0/2"]
    assert_user_error(run_llm(*no_place, cwd=here, check=False), 2, "need --work-dir")
    alone = ["filter", "docs.jsonl", "-o", "x", "--ray-address", "auto"]
    assert_user_error(run_llm(*alone, cwd=here, check=False), 2, "--ray-address has no effect")


def test_an_output_that_went_away_is_not_made_again_by_one_of_many(made, here):
    run_llm(*line("work", "--shard", "0/2"), cwd=here)
    (here / OUTPUTS[0]).unlink()
    done = run_llm(*line("work", "--shard", "1/2"), cwd=here, check=False)
    assert_user_error(done, 2, "remove the directory")
    run_llm(*line("work", "--workers", "1", "-f"), cwd=here)
    check_outputs(here, made)


def test_a_part_that_is_damaged_is_made_again(made, here):
    process = start(here, "--shard", "0/2", "--workers", "1")
    wait_until(lambda: done_units(here / "work", phase=4) >= 2, process)
    os.killpg(process.pid, 9)
    process.communicate(timeout=100)
    first, second = sorted((here / "work").glob("phase-04/*.safetensors"))[:2]
    first.write_bytes(b"x" * first.stat().st_size)
    second.unlink()
    # Each looks into the parts of its own share, and at the sizes of others.
    index = int(first.name.partition("-")[0])
    run_llm(*line("work", "--shard", f"{index}/97", "--workers", "1"), cwd=here)
    check_outputs(here, made)
