"""The GPU benchmark's logic, in the interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "run.py"
# The program with its references' results moved, as a kernel that is wrong would differ from them.
BROKEN = f"""
import runpy, sys
sys.argv = ["run.py", "--interpret", "--only", "SwiGLU"]
sys.path[:0] = [{str(SCRIPT.parent)!r}, {str(SCRIPT.parents[1])!r}]
import os
os.environ["TRITON_INTERPRET"] = "1"
import cases
right = cases.gated_reference
cases.gated_reference = lambda gate, up, name: -right(gate, up, name)
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_every_case_is_checked_and_timed_and_says_so_in_a_file_and_a_table(tmp_path):
    report = tmp_path / "report.json"
    done = run(SCRIPT, "--interpret", "--json", report, "--dtypes", "float16")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["is_interpreted"]
    assert len(found["records"]) >= 22
    for record in found["records"]:
        assert record["is_right"] and record["ms"] > 0, record
        assert record["case"] in done.stdout
        # A peer has a time, or a reason why it has none.
        for name, value in record["peers_ms"].items():
            is_missing = isinstance(value, str) and "not installed" in value
            assert isinstance(value, float) or (is_missing and name != "torch"), record
    assert "times say nothing" in done.stdout


def test_a_wrong_kernel_ends_the_benchmark_with_1_and_is_not_timed():
    done = run("-c", BROKEN)
    assert done.returncode == 1, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("SwiGLU"))
    assert "WRONG" in line and "torch" not in line


def test_without_a_gpu_it_says_what_can_be_done():
    if torch.cuda.is_available():
        return
    done = run(SCRIPT)
    assert done.returncode == 2 and "--interpret" in done.stderr
    assert "Traceback" not in done.stderr
