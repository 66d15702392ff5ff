from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmtools import jit
from llmtools.jit import Kernel, inlined, kernel
from llmtools.machine_code import image

needs_images = pytest.mark.skipif(not image.is_supported(), reason="numba stores code here")


@inlined
def _twice(x: int) -> int:
    return 2 * x


@kernel
def _sum_of_twice(values: np.ndarray) -> int:
    total = 0
    for value in values:
        total += _twice(value)
    return total


@kernel
def _sum_and_one(values: np.ndarray) -> int:
    return _sum_of_twice(values) + 1


def test_kernels_and_inlined_functions_are_called_by_kernels_and_by_python() -> None:
    assert _sum_and_one(np.arange(5)) == 21
    assert _sum_of_twice(np.arange(5)) == 20
    assert _twice(4) == 8


def _run(folder: Path, script: str, **environment: str) -> list[str]:
    """What a process prints that can import the modules of a folder, and stores code there."""
    paths = os.pathsep.join([str(folder), *sys.path])
    given = {"PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(folder / "cache")} | environment
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@needs_images
def test_stored_code_runs_without_numba_and_new_code_with_it(tmp_path: Path) -> None:
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
        "import sys, numpy as np, two_kernels as k\n"
        "print(k.fill(5).tolist(), k.fill.num_compiled, 'numba' in sys.modules)\n"
    )
    more = "print(k.total(np.arange(5)), k.fill(2).tolist(), 'numba' in sys.modules)\n"
    assert _run(tmp_path, script) == ["[0, 3, 6, 9, 12] 1 True"]
    assert _run(tmp_path, script) == ["[0, 3, 6, 9, 12] 0 False"]
    # What is not stored yet is compiled after stored code has run.
    assert _run(tmp_path, script + more) == ["[0, 3, 6, 9, 12] 0 False", "10 [0, 3] True"]
    assert _run(tmp_path, script + more) == ["[0, 3, 6, 9, 12] 0 False", "10 [0, 3] False"]


@needs_images
def test_code_keeps_to_what_the_processor_may_do(tmp_path: Path) -> None:
    """A machine may have features of its processor switched off."""
    (tmp_path / "a_kernel.py").write_text(
        "from llmtools.jit import kernel\n"
        "@kernel\n"
        "def total(values):\n"
        "    total = 0.0\n"
        "    for i in range(values.size):\n"
        "        total += values[i]\n"
        "    return total\n"
    )
    script = "import numpy as np, a_kernel as k; print(k.total(np.arange(5.0)))"
    # How an addition begins without AVX.
    plain, found = b"\xf2\x0f\x58", []
    for off in ({}, {"NUMBA_CPU_FEATURES": "-avx"}):
        cache = tmp_path / f"without{len(off)}"
        _run(tmp_path, script, NUMBA_CACHE_DIR=str(cache), **off)
        (stored,) = cache.rglob("*.kernel")
        found.append(plain in stored.read_bytes())
    assert found == [" avx " not in image.processor(), True]


@pytest.mark.parametrize("images", [pytest.param(True, marks=needs_images), False])
def test_stored_code_is_outdated_by_a_helper_or_a_constant_of_another_file(
    tmp_path: Path, images: bool
) -> None:
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
    script = "import caller; print(caller.run(10), caller.run.num_compiled)"
    if not images:
        script = (
            "from llmtools import jit; jit._makes_images = lambda: False\n"
            "import caller\n"
            "print(caller.run(10), caller.run._dispatcher.stats.cache_misses.total())"
        )
    found = []
    for factor, added in ((2, 1), (2, 1), (3, 1), (3, 5)):
        write(factor, added)
        os.utime(tmp_path / "helpers.py", (factor, factor))
        found += _run(tmp_path, script, PYTHONDONTWRITEBYTECODE="1")
    assert found == ["21 1", "21 0", "31 1", "35 1"]


@needs_images
def test_damaged_code_and_code_for_another_machine_is_compiled_anew(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        "from llmtools.jit import kernel\n@kernel\ndef run(x):\n    return x + 7\n"
    )
    script = "import one; print(one.run(1), one.run.num_compiled)"
    assert _run(tmp_path, script) == ["8 1"]
    (stored,) = (tmp_path / "cache").rglob("*.kernel")
    whole = stored.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for damaged in (b"", whole[:5], whole[:middle], flipped):
        stored.write_bytes(damaged)
        assert _run(tmp_path, script) == ["8 1"]
        assert _run(tmp_path, script) == ["8 0"]
    elsewhere = "from llmtools import jit; jit.processor = lambda: 'flags: none'\n" + script
    assert _run(tmp_path, elsewhere) == ["8 1"]


def test_a_kernel_compiles_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(in_the_way))
    run = kernel(lambda x: x + 1)
    assert [run(1), run(2)] == [2, 3]


def test_code_that_cannot_stand_alone_is_served_by_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    def served(self: Kernel, fault: Exception) -> Callable[[list[Any], Any], Any]:
        return lambda parts, arguments: self._dispatcher(*arguments)

    # cumsum takes a function of numba's own library.
    run = kernel(lambda x: np.cumsum(x)[-1])
    if image.is_supported():
        with pytest.raises(AssertionError, match="is not a function of the C library"):
            run(np.arange(4))
    monkeypatch.setattr(Kernel, "_served_by_numba", served)
    assert run(np.arange(4)) == 6
    # Text is known to numba alone.
    assert kernel(lambda x: len(x))("two") == 3


def test_without_the_compiler_kernels_are_plain_python(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        "from llmtools.jit import inlined, kernel\n"
        "@inlined\ndef part(x):\n    return (type(x).__name__, x)\n"
        "@kernel\ndef run(x):\n    return part(x)\n"
    )
    script = "import one; print(one.run(10**30))"
    assert _run(tmp_path, script, NUMBA_DISABLE_JIT="1") == [f"('int', {10**30})"]


def test_other_packages_are_not_imported_for_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import entrypoints

    import llmtools.machine_code.compiler  # noqa: F401

    def fail() -> None:
        raise AssertionError("numba looked for extensions")

    monkeypatch.setattr(entrypoints.importlib_metadata, "entry_points", fail)
    entrypoints.init_all()
    # The twin: as numba is without this package.
    monkeypatch.setattr(entrypoints, "_already_initialized", False)
    with pytest.raises(AssertionError, match="looked for"):
        entrypoints.init_all()


def test_instructions_are_compiled_where_their_code_stands(tmp_path: Path) -> None:
    def write(offset: int) -> None:
        (tmp_path / "codes.py").write_text(
            "from llvmlite import ir\n"
            "from numba import types\n"
            "def moved(context, x):\n"
            "    def generate(context, builder, signature, arguments):\n"
            f"        return builder.add(arguments[0], ir.Constant(ir.IntType(64), {offset}))\n"
            "    return types.int64(types.int64), generate\n"
        )
        os.utime(tmp_path / "codes.py", (offset, offset))

    (tmp_path / "one.py").write_text(
        "from llmtools.jit import Instruction, kernel\n"
        "moved = Instruction('codes', 'moved')\n"
        "@kernel\ndef run(x):\n    return moved(x) * 2\n"
    )
    script = "import one; print(one.run(10), one.run.num_compiled)"
    found = []
    for offset in (1, 1, 2):
        write(offset)
        found += _run(tmp_path, script, PYTHONDONTWRITEBYTECODE="1")
    assert [line.split()[0] for line in found] == ["22", "22", "24"]
    if jit._makes_images():
        assert [line.split()[1] for line in found] == ["1", "0", "1"]
