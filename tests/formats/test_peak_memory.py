"""What a process says of its memory is its own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from llmtools.formats.peak_memory import peak_memory

SAY = "from llmtools.formats.peak_memory import peak_memory; print(peak_memory())"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says it of a program alone")
def test_the_peak_is_that_of_the_process_and_not_of_the_one_that_started_it():
    held = np.ones(40 << 20)
    assert peak_memory() > held.nbytes
    done = subprocess.run([sys.executable, "-c", SAY], capture_output=True, check=True)
    assert 1 << 20 < int(done.stdout) < 100 << 20
