"""A small `llm run` that is shared, killed and gone on with: its inputs, lines and outputs."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support import LLM, run_llm

WORDS = "the of and to in is was on for with as by at from data model page river stone".split()
PIPE = (
    "filter --rules length --min-doc-words 20 --rejects short.jsonl docs.jsonl | dedup"
    " | tokenize -t tok.json -o out.safetensors"
)
OUTPUTS = ("out.safetensors", "short.jsonl")
RAY = ["--executor", "ray", "--workers", "2"]
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed"
)


def make(folder: Path) -> Path:
    """Documents, a tokenizer, and what the pipe gives of them in one process."""
    source = random.Random(5)
    with open(folder / "docs.jsonl", "w") as out:
        for number in range(240):
            text = " ".join(source.choices(WORDS, k=source.randrange(5, 120)))
            out.write(json.dumps({"text": text} | ({"id": f"d{number}"} if number % 3 else {})))
            out.write("\n")
    train = ["tokenizer", "train", "docs.jsonl", "--vocab-size", "290", "-o", "tok.json"]
    run_llm(*train, cwd=folder)
    run_llm(*line("whole", "--workers", "1"), cwd=folder)
    return folder


def link_inputs(made: Path, folder: Path) -> Path:
    for name in ("docs.jsonl", "tok.json"):
        (folder / name).symlink_to(made / name)
    return folder


def line(work: str, *flags: str) -> list[str]:
    return ["run", "--work-dir", work, "--shard-bytes", "6K", *flags, PIPE]


def start(folder: Path, *flags: str, **environment: str) -> subprocess.Popen[bytes]:
    """The run in a session of its own, so that it can be killed with all its processes."""
    return subprocess.Popen(
        [*LLM, *line("work", *flags)], cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | environment, start_new_session=True,
    )  # fmt: skip


def slurm(index: int, count: int) -> dict[str, str]:
    """What Slurm tells a task of an array."""
    return {
        "SLURM_ARRAY_TASK_ID": str(index + 3),
        "SLURM_ARRAY_TASK_COUNT": str(count),
        "SLURM_ARRAY_TASK_MIN": "3",
    }


def done_units(work: Path, phase: int | str = "") -> int:
    """How many units the ledger has as done, of one phase or of all."""
    lines = [one for path in work.glob("ledger*.jsonl") for one in path.read_bytes().split(b"\n")]
    begin = f'{{"event": "done", "unit": "{phase}'.encode()
    return sum(one.startswith(begin) and one.endswith(b"}") for one in lines)


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Until something is so, or the process is through."""
    deadline = time.monotonic() + 200
    while not is_so() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def check_outputs(folder: Path, made: Path) -> None:
    for name in OUTPUTS:
        assert (folder / name).read_bytes() == (made / name).read_bytes(), name
