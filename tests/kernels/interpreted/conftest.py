"""These run in a process of their own with TRITON_INTERPRET=1; see test_interpreted.py.

Memory that no kernel has written holds NaN or the largest integer, so an element that is left out
is a wrong value, and stores of every launch are traced (stores.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

collect_ignore_glob: list[str] = []
if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = [path.name for path in Path(__file__).parent.glob("test_*.py")]


@pytest.fixture(autouse=True)
def watched() -> Iterator[None]:
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    from stores import traced

    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    with traced():
        yield
    torch.use_deterministic_algorithms(False)
