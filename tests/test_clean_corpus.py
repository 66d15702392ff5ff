"""examples/clean_corpus.sh: the same bytes from one machine, a Slurm array and a Ray cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from shard_runs import needs_ray, slurm

SCRIPT = Path(__file__).parent.parent / "examples" / "clean_corpus.sh"
FILES = ("clean.jsonl.zst", "dropped-filter.jsonl", "dropped-dedup.jsonl")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Modules that every Python carries, some twice, one with a word changed."""
    folder = tmp_path_factory.mktemp("corpus")
    library = Path(sysconfig.get_path("stdlib"))
    names = ("json", "email", "asyncio", "logging", "unittest", "importlib")
    for name in names:
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(library / name, folder / "tree" / name, ignore=skipped)
    shutil.copytree(folder / "tree" / "json", folder / "tree" / "json-again")
    near = folder / "tree" / "json-again" / "decoder.py"
    near.write_text(near.read_text().replace("Decode", "decode", 1))
    return folder / "tree"


def start(tree: Path, out: Path, executor: str, **environment: str) -> subprocess.Popen[str]:
    values = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SHARD_BYTES": "200K",
        "WORKERS": "2",
        **environment,
    }
    command = ["bash", str(SCRIPT), str(tree), str(out), executor]
    return subprocess.Popen(command, env=values, stderr=subprocess.PIPE, text=True)


def finish(*processes: subprocess.Popen[str]) -> str:
    said = "".join(process.communicate(timeout=300)[1] for process in processes)
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


@pytest.fixture(scope="module")
def local(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local") / "out"
    said = finish(start(tree, out, "local"))
    assert "dropped near" in said
    for name in FILES:
        assert (out / name).stat().st_size > 0, name
    dropped = (out / "dropped-dedup.jsonl").read_text()
    assert "json-again/decoder.py" in dropped and "json-again/encoder.py" in dropped
    return out


def check_same(out: Path, local: Path) -> None:
    for name in FILES:
        assert (out / name).read_bytes() == (local / name).read_bytes(), name


def test_a_slurm_array_gives_the_bytes_of_one_machine(tree, local, tmp_path):
    out = tmp_path / "out"
    finish(*(start(tree, out, "slurm", WORKERS="1", **slurm(n, 2)) for n in range(2)))
    check_same(out, local)


@needs_ray
def test_a_ray_cluster_gives_the_bytes_of_one_machine(tree, local, tmp_path):
    out = tmp_path / "out"
    finish(start(tree, out, "ray"))
    check_same(out, local)


def test_documents_as_json_lines_are_cleaned_too(local, tmp_path):
    said = finish(start(local / "clean.jsonl.zst", tmp_path / "out", "local"))
    assert "documents" in said
    # What is clean stays as it is.
    assert (tmp_path / "out" / FILES[0]).read_bytes() == (local / FILES[0]).read_bytes()
