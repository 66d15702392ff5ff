"""Arguments and results of compiled kernels.

A compiled function is `int32 f(result *, exception **, arguments ...)`. An array is numpy's own
object, of which the function reads place and sizes itself (compiler.py). The status is 0 where the
result was written (numba.core.callconv.CPUCallConv). In a result an array is two objects of numba's
runtime, the number of elements, the bytes of one, their address, sizes and strides
(numba.core.datamodel.models.ArrayModel).

A result is described in plain JSON: a letter of `struct` for a number, "n" for None, a list for a
tuple, {"dtype", "ndim"} for an array.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Kinds = tuple[Any, ...]
Code = Callable[[list[Any], Any], Any]

# Of int64 numpy has two on most machines, both of which are eight bytes long.
_NUMBERS = {int: "q", bool: "?", float: "d", np.bool_: "?", np.int64: "q", np.uint64: "Q"}
_NUMBERS |= {np.dtype(letter).type: letter for letter in "bBhHiIqQfd"}
_C_TYPES: dict[str, Any] = {
    "?": ctypes.c_bool, "b": ctypes.c_int8, "B": ctypes.c_uint8, "h": ctypes.c_int16,
    "H": ctypes.c_uint16, "i": ctypes.c_int32, "I": ctypes.c_uint32, "q": ctypes.c_int64,
    "Q": ctypes.c_uint64, "f": ctypes.c_float, "d": ctypes.c_double,
}  # fmt: skip
_LARGEST = (1 << 63) - 1
_ELEMENTS = {np.dtype(letter): letter for letter in "?bBhHiIqQfdlL"}
# NPY_ARRAY_C_CONTIGUOUS, F_CONTIGUOUS, ALIGNED, WRITEABLE.
_LAYOUT = 0x1 | 0x2 | 0x100 | 0x400
# Two objects, elements, bytes of one, address; then sizes and strides.
_ARRAY_PARTS = 5
_OBJECT, _ADDRESS = 0, 4


def flatten(arguments: tuple[Any, ...]) -> tuple[Kinds | None, list[Any]]:
    """What the arguments are, which tells the code they need, and the parts of them in order.

    None and no parts for arguments that only numba has a way for. Of an array the kind has the type
    of its elements, its dimensions, and how they lie in memory.
    """
    kinds: list[Any] = []
    parts: list[Any] = []
    if _add_all(arguments, kinds, parts):
        return tuple(kinds), parts
    return None, []


def _add_all(arguments: tuple[Any, ...], kinds: list[Any], parts: list[Any]) -> bool:
    for argument in arguments:
        kind = type(argument)
        if kind is np.ndarray:
            letter = _ELEMENTS.get(argument.dtype)
            # A number of their own: C or Fortran order, aligned, writable.
            kinds += (letter, argument.ndim, argument.flags.num & _LAYOUT)
        elif kind is tuple:
            kinds += ("tuple", len(argument))
            if not _add_all(argument, kinds, parts):
                return False
            continue
        else:
            letter = _NUMBERS.get(kind)
            kinds.append(letter)
            if kind is int and not -_LARGEST <= argument <= _LARGEST:
                return False
        if letter is None:
            return False
        parts.append(argument)
    return True


def _c_type(part: Any) -> Any:
    if isinstance(part, np.ndarray):
        return ctypes.py_object
    return _C_TYPES[_NUMBERS[type(part)]]


_free = ctypes.CDLL(None).free
_free.argtypes = [ctypes.c_void_p]
_free.restype = None


class _Memory:
    """An array that a kernel made: its memory is freed with the last array that looks at it.

    start: the address of numba's description of it, where the block begins.
    """

    def __init__(self, start: int, about: dict[str, Any]) -> None:
        self.__array_interface__ = about
        self._start = start

    # Names of the module may be gone when the interpreter ends.
    def __del__(self, count_at: Any = ctypes.c_int64.from_address, free: Any = _free) -> None:
        # The first field says how many arrays refer to it.
        count = count_at(self._start)
        count.value -= 1
        if count.value == 0:
            free(self._start)


class _View:
    """An array within an argument, which it keeps alive."""

    def __init__(self, owner: Any, about: dict[str, Any]) -> None:
        self.__array_interface__ = about
        self._owner = owner


def _layout(result: Any) -> str:
    """The result in memory, as letters of `struct`."""
    if isinstance(result, list):
        return "".join(map(_layout, result))
    if isinstance(result, dict):
        return "q" * (_ARRAY_PARTS + 2 * int(result["ndim"]))
    return "" if result == "n" else str(result)


def is_plain(result: Any) -> bool:
    """Whether the parts of a result follow one another as its layout says.

    A tuple in a tuple is rounded up to its largest part, so it may have only parts of eight bytes.
    """
    inner = [part for part in result if isinstance(part, list)] if isinstance(result, list) else []
    return all(set(_layout(part)) <= set("qQd") for part in inner)


def _read(result: Any, parts: Iterator[Any], arguments: Any) -> Any:
    """Build a result of its parts."""
    if isinstance(result, list):
        return tuple([_read(part, parts, arguments) for part in result])
    if isinstance(result, dict):
        found = [next(parts) for _ in _layout(result)]
        ndim = result["ndim"]
        about = {
            "version": 3,
            "typestr": result["dtype"],
            "data": (found[_ADDRESS], False),
            "shape": tuple(found[_ARRAY_PARTS : _ARRAY_PARTS + ndim]),
            "strides": tuple(found[_ARRAY_PARTS + ndim :]),
        }
        if found[_OBJECT]:
            return np.asarray(_Memory(found[_OBJECT], about))
        return _part_of(arguments, about)
    return None if result == "n" else next(parts)


def _part_of(arguments: Any, about: dict[str, Any]) -> npt.NDArray[Any]:
    """An argument that a kernel gave back, or a part of one.

    That one alone is kept alive: a kernel may be called with its own results for ever.
    """
    part = np.asarray(_View(arguments, about))
    for argument in _arrays(arguments):
        if np.may_share_memory(part, argument):
            there = argument.__array_interface__
            is_whole = there["data"][0] == about["data"][0] and part.strides == argument.strides
            if is_whole and part.shape == argument.shape and part.dtype == argument.dtype:
                return argument
            return np.asarray(_View(argument, about))
    # Without elements, it is in none.
    return part.copy()


def _arrays(arguments: Any) -> Iterator[npt.NDArray[Any]]:
    for argument in arguments:
        if isinstance(argument, tuple):
            yield from _arrays(argument)
        elif isinstance(argument, np.ndarray):
            yield argument


def caller(name: str, address: int, parts: list[Any], result: Any) -> Code:
    """A function that calls the code at an address: (parts, arguments) to its result.

    parts: of some arguments of its kinds, as all later ones must be. Raises MemoryError or
    RuntimeError where the kernel did not come to its end.
    """
    types = [ctypes.c_void_p, ctypes.c_void_p, *map(_c_type, parts)]
    # PYFUNCTYPE keeps the lock of the interpreter, as numba does.
    function = ctypes.PYFUNCTYPE(ctypes.c_int32, *types)(address)
    layout = struct.Struct("@" + _layout(result))
    room = max(layout.size, 16)

    def call(parts: list[Any], arguments: Any) -> Any:
        out = ctypes.create_string_buffer(room)
        fault = ctypes.c_void_p()
        status = function(out, ctypes.byref(fault), *parts)
        if status != 0:
            raise _fault(name, fault)
        if result == "n":
            return None
        return _read(result, iter(layout.unpack_from(out)), arguments)

    return call


def _fault(name: str, fault: ctypes.c_void_p) -> Exception:
    """The exception of a kernel: its class and text, pickled, which is searched but not loaded."""
    pickled = b""
    if fault.value:
        start = ctypes.c_void_p.from_address(fault.value).value
        size = ctypes.c_int32.from_address(fault.value + 8).value
        pickled = ctypes.string_at(start, size) if start else b""
    if b"MemoryError" in pickled:
        return MemoryError(f"kernel {name}: no memory for an array")
    for kind in (ZeroDivisionError, ValueError, IndexError, OverflowError):
        if kind.__name__.encode() in pickled:
            return kind(f"in kernel {name}")
    return RuntimeError(f"kernel {name} failed")
