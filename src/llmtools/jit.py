"""How this package compiles its numba kernels."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
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
    """Stored machine code, loaded without making the compiler ready.

    numba takes it for outdated when the kernel's own file has changed; here also when that of one
    of its helpers has, or a constant of another file.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        self._function: Callable[..., Any] | None = function

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is stored for a signature, or None.

        numba registers everything it can compile before it looks, for 0.1 s, which stored code has
        no use for; a compilation does that too when it begins. What runs needs the memory manager.
        """
        rtsys.initialize(target_context)
        if self._function is not None:
            # Not before the first call: a helper may stand below its kernel.
            own = self._cache_file._source_stamp
            self._cache_file._source_stamp = (own, *sorted(_taken(self._function, set())))
            self._function = None
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)  # type: ignore[no-untyped-call]


def _taken(function: Any, seen: set[Any]) -> Iterator[tuple[str, str]]:
    """What a kernel is compiled from but for its own text: files of helpers, values of globals."""
    seen.add(function)
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        helper = getattr(value, "py_func", None) or getattr(value, "_defn", None)
        if isinstance(value, int | float | str | bytes | tuple | np.generic):
            yield name, repr(value)
        elif isinstance(value, np.ndarray):
            yield name, f"{value.dtype} {value.shape} {zlib.crc32(value.tobytes())}"
        elif helper is not None and helper not in seen:
            path = helper.__code__.co_filename
            yield os.path.basename(path), str(os.path.getmtime(path))
            yield from _taken(helper, seen)


def kernel(function: F) -> F:
    """Compile on the first call and keep the machine code for later processes.

    numba stores it in `__pycache__` beside the source, else in the user's cache folder, else where
    NUMBA_CACHE_DIR says. Where none of them can be written it refuses to compile with caching at
    all; the kernel then costs its second of compilation in every process instead of failing.
    """
    try:
        compiled: Any = njit(cache=True)(function)
        compiled._cache = _Stored(function)
        return cast(F, compiled)
    except RuntimeError:
        return cast(F, njit(function))


def inlined(function: F) -> F:
    """A small function that becomes a part of each kernel which calls it.

    A call of another kernel passes seven numbers for each array, and may cost more than its work.
    """
    return cast(F, njit(forceinline=True)(function))


def instruction(function: Callable[..., Any]) -> Any:
    """A function for kernels that writes its own LLVM code: (typing context, types) to (signature,
    generator), as numba's `intrinsic`, which its type hints do not describe."""
    return intrinsic(function)
