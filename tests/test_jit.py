from __future__ import annotations

from collections.abc import Callable
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
