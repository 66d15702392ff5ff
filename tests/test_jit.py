from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmtools import jit


def test_a_kernel_compiles_where_no_cache_folder_can_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def njit(function: Any = None, cache: bool = False) -> Callable[..., Any]:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda *args: ("compiled", function(*args))

    monkeypatch.setattr(jit, "njit", njit)
    assert jit.kernel(lambda x: x + 1)(1) == ("compiled", 2)
