"""The quickstart, run as `make demo` runs it but with fewer steps; its own checks decide."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_quickstart_ends_well(tmp_path):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "STEPS": "150",
        "FINETUNE_STEPS": "40",
        "LIMIT_TOKENS": "5000",
    }
    # The demo uses all cores; the tests' single thread would double its time.
    environment.pop("OMP_NUM_THREADS")
    done = subprocess.run(
        ["bash", ROOT / "examples" / "quickstart.sh", tmp_path / "out"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nok ") == 5
    assert (tmp_path / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")
