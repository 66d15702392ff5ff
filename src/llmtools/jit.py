"""How this package compiles its numba kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile on the first call and keep the machine code for later processes.

    numba stores it in `__pycache__` beside the source, else in the user's cache folder, else where
    NUMBA_CACHE_DIR says. Where none of them can be written it refuses to compile with caching at
    all; the kernel then costs its second of compilation in every process instead of failing.

    A trap: stored code is outdated only by a change of its own file, so a kernel's helpers belong
    into the file of the kernel.
    """
    try:
        return cast(F, njit(cache=True)(function))
    except RuntimeError:
        return cast(F, njit(function))


def instruction(function: Callable[..., Any]) -> Any:
    """A function for kernels that writes its own LLVM code: (typing context, types) to (signature,
    generator), as numba's `intrinsic`, which its type hints do not describe."""
    return intrinsic(function)
