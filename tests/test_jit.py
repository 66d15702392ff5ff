from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core import entrypoints

from llmtools import jit
from llmtools.jit import inlined, kernel


def test_a_kernel_compiles_where_no_cache_folder_can_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def njit(function: Any = None, cache: bool = False) -> Callable[..., Any]:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda *args: ("compiled", function(*args))

    monkeypatch.setattr(jit, "njit", njit)
    assert jit.kernel(lambda x: x + 1)(1) == ("compiled", 2)


def test_other_packages_are_not_imported_for_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise AssertionError("numba looked for extensions")

    monkeypatch.setattr(entrypoints.importlib_metadata, "entry_points", fail)
    entrypoints.init_all()
    # The twin: as numba is without this package.
    monkeypatch.setattr(entrypoints, "_already_initialized", False)
    with pytest.raises(AssertionError, match="looked for"):
        entrypoints.init_all()


@inlined
def _twice(x: int) -> int:
    return 2 * x


@kernel
def _sum_of_twice(values: np.ndarray) -> int:
    total = 0
    for value in values:
        total += _twice(value)
    return total


def test_inlined_functions_are_part_of_kernels() -> None:
    assert _sum_of_twice(np.arange(5)) == 20


def test_stored_code_runs_without_the_compiler_and_new_code_with_it(tmp_path: Path) -> None:
    (tmp_path / "two_kernels.py").write_text(
        "import numpy as np\n"
        "from llmtools.jit import kernel\n"
        "@kernel\n"
        "def fill(count):\n"
        "    out = np.zeros(count, np.int64)\n"
        "    for i in range(count):\n"
        "        out[i] = 3 * i\n"
        "    return out\n"
        "@kernel\n"
        "def total(values):\n"
        "    return values.sum()\n"
    )
    script = (
        "import sys, numpy as np, two_kernels\n"
        "print(two_kernels.fill(5).tolist(), two_kernels.fill.stats.cache_hits.total())\n"
        "print('numba.typed.typedlist' in sys.modules)\n"
        "if len(sys.argv) > 1:\n"
        "    print(two_kernels.total(np.arange(5)), two_kernels.fill(2).tolist())\n"
    )

    def run(*flags: str) -> list[str]:
        paths = os.pathsep.join([str(tmp_path), *sys.path])
        environment = os.environ | {"PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        argv = [sys.executable, "-c", script, *flags]
        return subprocess.run(
            argv, env=environment, capture_output=True, text=True, check=True
        ).stdout.splitlines()

    assert run() == ["[0, 3, 6, 9, 12] 0", "True"]
    assert run() == ["[0, 3, 6, 9, 12] 1", "False"]
    # What is not stored yet is compiled after stored code has run.
    assert run("more") == ["[0, 3, 6, 9, 12] 1", "False", "10 [0, 3]"]


def test_stored_code_is_outdated_by_a_helper_or_a_constant_of_another_file(tmp_path: Path) -> None:
    def write(factor: int, added: int) -> None:
        (tmp_path / "helpers.py").write_text(
            "from llmtools.jit import inlined\n"
            f"ADDED = {added}\n"
            "@inlined\n"
            "def scaled(x):\n"
            f"    return {factor} * x\n"
        )

    (tmp_path / "caller.py").write_text(
        "from helpers import ADDED, scaled\n"
        "from llmtools.jit import kernel\n"
        "@kernel\n"
        "def run(x):\n"
        "    return scaled(x) + ADDED\n"
    )
    script = "import caller; print(caller.run(10), caller.run.stats.cache_hits.total())"
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    environment = os.environ | {
        "PYTHONPATH": paths,
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    found = []
    for factor, added in ((2, 1), (2, 1), (3, 1), (3, 5)):
        write(factor, added)
        os.utime(tmp_path / "helpers.py", (factor, factor))
        argv = [sys.executable, "-c", script]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
        found.append(done.stdout.strip())
    assert found == ["21 0", "21 1", "31 0", "35 0"]
