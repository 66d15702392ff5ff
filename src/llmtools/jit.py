"""How this package compiles its numba kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit
from numba.core import entrypoints
from numba.core.caching import FunctionCache
from numba.core.runtime.nrt import rtsys
from numba.extending import intrinsic

# What other installed packages add to numba (entry points `numba_extensions`) is of no use to these
# kernels, and importing such packages can take longer than all else; numba loads them once at most.
entrypoints._already_initialized = True

F = TypeVar("F", bound=Callable[..., Any])


class _Stored(FunctionCache):
    """Stored machine code, loaded without making the compiler ready."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is stored for a signature, or None.

        numba registers everything it can compile before it looks, for 0.1 s, which stored code has
        no use for; a compilation does that too when it begins. What runs needs the memory manager.
        """
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)  # type: ignore[no-untyped-call]


def kernel(function: F) -> F:
    """Compile on the first call and keep the machine code for later processes.

    numba stores it in `__pycache__` beside the source, else in the user's cache folder, else where
    NUMBA_CACHE_DIR says. Where none of them can be written it refuses to compile with caching at
    all; the kernel then costs its second of compilation in every process instead of failing.

    A trap: stored code is outdated only by a change of its own file, so a kernel's helpers belong
    into the file of the kernel.
    """
    try:
        compiled: Any = njit(cache=True)(function)
        compiled._cache = _Stored(function)  # type: ignore[no-untyped-call]
        return cast(F, compiled)
    except RuntimeError:
        return cast(F, njit(function))


def inlined(function: F) -> F:
    """A small function that becomes a part of each kernel which calls it, in the same file.

    A call of another kernel passes seven numbers for each array, and may cost more than its work.
    """
    return cast(F, njit(forceinline=True)(function))


def instruction(function: Callable[..., Any]) -> Any:
    """A function for kernels that writes its own LLVM code: (typing context, types) to (signature,
    generator), as numba's `intrinsic`, which its type hints do not describe."""
    return intrinsic(function)
