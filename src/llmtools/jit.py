"""How this package compiles its kernels, and keeps them compiled.

numba compiles them. Importing it takes longer than all else that a command does with a small file,
and with LLVM it takes 100 MB; so the machine code is stored in a form that runs without either
(machine_code/): in `__pycache__` beside the source, else in the user's cache folder, or where
NUMBA_CACHE_DIR says. Where nothing can be written each process compiles for itself.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import xxhash

from llmtools import terminal
from llmtools.machine_code.calls import Code, Kinds, caller, flatten
from llmtools.machine_code.image import from_bytes, is_supported, load, processor

F = TypeVar("F", bound=Callable[..., Any])

# What decides what the compiler makes of a kernel, beside the kernel and the compiler.
_OPTIONS = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_OPT", "NUMBA_ENABLE_AVX")
_COMPILER_FILES = ("compiler.py", "object_file.py", "image.py")


class _Compiled:
    """A function that kernels may call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.py_func = function

    def __call__(self, *arguments: Any) -> Any:
        return self._dispatcher(*arguments)

    @property
    def _dispatcher(self) -> Any:
        """The same as numba has it."""
        raise NotImplementedError

    @property
    def _numba_type_(self) -> Any:
        """What numba takes it for in a kernel that calls it."""
        return self._dispatcher._numba_type_


class _Inlined(_Compiled):
    @functools.cached_property
    def _dispatcher(self) -> Any:
        from llmtools.machine_code.compiler import inlined_dispatcher

        return inlined_dispatcher(self.py_func)


class Kernel(_Compiled):
    """A function over arrays and numbers that runs as machine code.

    It is compiled once for each combination of types that it is called with; later processes find
    the code stored. num_compiled: how many this process compiled.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self.num_compiled = 0
        self._codes: dict[Kinds | None, Code] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Run it. Raises what numba raises for arguments that it cannot compile it for."""
        if not _makes_images():
            return self._dispatcher(*arguments)
        kinds, parts = flatten(arguments)
        code = self._codes.get(kinds)
        if code is None:
            code = self._codes[kinds] = self._find(kinds, parts, arguments)
        return code(parts, arguments)

    @functools.cached_property
    def _dispatcher(self) -> Any:
        from llmtools.machine_code.compiler import dispatcher

        return dispatcher(self.py_func, stamp=None if _makes_images() else lambda: self._stamp)

    @functools.cached_property
    def _stamp(self) -> str:
        """What stored code was made from. Not before the first call: helpers may stand below."""
        own = _time_of(self.py_func.__code__.co_filename)
        return repr((own, sorted(_taken(self.py_func, set())), _surroundings()))

    def _file_name(self, kinds: Kinds) -> str:
        name = f"{self.py_func.__module__}.{self.py_func.__qualname__}"
        return f"{name}-{xxhash.xxh3_64_hexdigest(repr(kinds).encode())}.kernel"

    def _find(self, kinds: Kinds | None, parts: list[Any], arguments: tuple[Any, ...]) -> Code:
        if kinds is None:
            return self._served_by_numba(TypeError("arguments that only numba has a way for"))
        return self._stored(kinds, parts) or self._compile(kinds, parts, arguments)

    def _stored(self, kinds: Kinds, parts: list[Any]) -> Code | None:
        """The stored code for some types."""
        for folder in _folders(self.py_func):
            try:
                image = from_bytes((folder / self._file_name(kinds)).read_bytes(), self._stamp)
                if image is not None:
                    return caller(self.py_func.__name__, load(image), parts, image.result)
            except OSError:
                # Not there, or not to be read.
                continue
        return None

    def _compile(self, kinds: Kinds, parts: list[Any], arguments: tuple[Any, ...]) -> Code:
        """Compile for the types of some arguments, and store that."""
        from llmtools.machine_code.compiler import export
        from llmtools.machine_code.object_file import UnsupportedCode

        self.num_compiled += 1
        try:
            image = export(self._dispatcher, arguments)
            code = caller(self.py_func.__name__, load(image), parts, image.result)
        except (UnsupportedCode, OSError) as fault:
            return self._served_by_numba(fault)
        for folder in _folders(self.py_func):
            if _write(folder / self._file_name(kinds), image.to_bytes(self._stamp)):
                break
        return code

    def _served_by_numba(self, fault: Exception) -> Code:
        """For code that cannot stand alone, and systems that allow new code only to some."""
        terminal.detail(f"kernel {self.py_func.__name__}: {fault}; each process compiles it anew")
        return lambda parts, arguments: self._dispatcher(*arguments)


class Instruction:
    """A function for kernels that writes its own LLVM code: `module` has it, by its name, as
    numba's `intrinsic` wants it. The module is imported only to compile."""

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    @functools.cached_property
    def _numba_type_(self) -> Any:
        from llmtools.machine_code.compiler import instruction_type

        return instruction_type(getattr(importlib.import_module(self.module), self.name))


def kernel(function: F) -> F:
    """Compile a function on its first call, and keep the machine code for later processes."""
    return cast(F, Kernel(function))


def inlined(function: F) -> F:
    """A small function that becomes a part of each kernel which calls it.

    A call of another kernel passes seven numbers for each array, and may cost more than its work.
    """
    return cast(F, _Inlined(function))


@functools.cache
def _makes_images() -> bool:
    return is_supported() and os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"


@functools.cache
def _surroundings() -> tuple[Any, ...]:
    """What code is made with, and for: the compiler, its settings, the processor, how large the
    head of an object is, behind which compiled code looks."""
    numba = importlib.util.find_spec("numba")
    assert numba is not None and numba.origin is not None
    here = Path(__file__).parent / "machine_code"
    files = [
        Path(numba.origin).with_name("_version.py"),
        *(here / name for name in _COMPILER_FILES),
    ]
    settings = [os.environ.get(name) for name in _OPTIONS]
    times = [_time_of(str(path)) for path in files]
    return (*times, *settings, processor(), object.__basicsize__)


def _time_of(path: str) -> tuple[int, int]:
    """When a file was last changed, and its size; zeros for one that is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _taken(function: Any, seen: set[Any]) -> Iterator[tuple[str, str]]:
    """What a kernel is compiled from but for its own text: files of helpers, values of globals."""
    seen.add(function)
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, int | float | str | bytes | tuple | np.generic):
            yield name, repr(value)
        elif isinstance(value, np.ndarray):
            yield name, f"{value.dtype} {value.shape} {zlib.crc32(value.tobytes())}"
        elif isinstance(value, Instruction):
            found = importlib.util.find_spec(value.module)
            yield name, repr(_time_of(found.origin or "" if found else ""))
        elif isinstance(value, _Compiled) and value.py_func not in seen:
            path = value.py_func.__code__.co_filename
            yield os.path.basename(path), repr(_time_of(path))
            yield from _taken(value.py_func, seen)


def _folders(function: Callable[..., Any]) -> Iterator[Path]:
    """Where the code of a kernel may be stored, the best place first."""
    source = Path(function.__code__.co_filename).parent
    own = xxhash.xxh3_64_hexdigest(str(source).encode())
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given:
        yield Path(given) / own
        return
    yield source / "__pycache__"
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    yield Path(caches) / "llmtools" / "kernels" / own


def _write(path: Path, data: bytes) -> bool:
    """Whether a file could be written; it is there whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with open(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError:
        return False
    return True
