"""Which program of a launch stored where: what a sequential interpreter would hide.

While `traced` is on, every launch in triton's interpreter fails where two programs stored to one
address (on a GPU either may be last; atomic operations may), and where an address of a load, store
or atomic lies outside the storages of the tensors that the launch was given. It wraps private
classes of triton.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder


class StoreFault(AssertionError):
    """A kernel that would be wrong on a GPU."""


class _Launch:
    """The addresses of a launch in progress."""

    def __init__(self) -> None:
        self.ranges: dict[int, int] = {}
        self.stored: list[tuple[int, np.ndarray]] = []

    def take(self, value: Any) -> None:
        """Allow the storage of a tensor, or of those in a tuple or descriptor."""
        if isinstance(value, tuple):
            for one in value:
                self.take(one)
            return
        tensor = getattr(value, "base", value)
        if hasattr(tensor, "untyped_storage"):
            storage = tensor.untyped_storage()
            self.ranges[storage.data_ptr()] = storage.data_ptr() + storage.nbytes()

    def check(self, what: str, pointers: Any, mask: Any, itemsize: int) -> np.ndarray:
        """The addresses that are touched; raises StoreFault for one outside."""
        chosen = np.broadcast_to(mask.data, pointers.data.shape).astype(bool)
        addresses = pointers.data[chosen].astype(np.uint64)
        inside = np.zeros(addresses.shape, bool)
        for start, end in self.ranges.items():
            inside |= (addresses >= start) & (addresses + itemsize <= end)
        if not inside.all():
            raise StoreFault(
                f"program {_program()}: {what} of {int((~inside).sum())} elements outside of all"
                " tensors"
            )
        return addresses

    def end(self) -> None:
        """Raises StoreFault where two programs stored to one address."""
        if not self.stored:
            return
        numbers = np.concatenate([np.full(len(a), n) for n, a in self.stored])
        addresses = np.concatenate([a for _, a in self.stored])
        order = np.lexsort((numbers, addresses))
        addresses, numbers = addresses[order], numbers[order]
        shared = (addresses[1:] == addresses[:-1]) & (numbers[1:] != numbers[:-1])
        if shared.any():
            at = int(np.flatnonzero(shared)[0])
            raise StoreFault(
                f"programs {numbers[at]} and {numbers[at + 1]} both store to {int(shared.sum())}"
                " elements"
            )


def _program() -> int:
    x, y, z = interpreter.interpreter_builder.grid_idx
    return int((x << 42) + (y << 21) + z)


@contextmanager
def traced() -> Iterator[None]:
    """Hold every launch in the block to the rules above."""
    launch = _Launch()
    kept = {
        (owner, name): getattr(owner, name)
        for owner, name in (
            (InterpreterBuilder, "create_masked_load"),
            (InterpreterBuilder, "create_masked_store"),
            (InterpreterBuilder, "create_atomic_rmw"),
            (GridExecutor, "_init_args_hst"),
            (GridExecutor, "_restore_args_dev"),
        )
    }

    def load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        found = kept[InterpreterBuilder, "create_masked_load"]
        size = pointers.get_element_ty().primitive_bitwidth // 8
        launch.check("a load", pointers, mask, size)
        return found(self, pointers, mask, *rest)

    def store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        found = kept[InterpreterBuilder, "create_masked_store"]
        addresses = launch.check("a store", pointers, mask, value.data.itemsize)
        launch.stored.append((_program(), addresses))
        return found(self, pointers, value, mask, *rest)

    def atomic(self: Any, kind: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        found = kept[InterpreterBuilder, "create_atomic_rmw"]
        launch.check("an atomic", pointers, mask, value.data.itemsize)
        return found(self, kind, pointers, value, mask, *rest)

    def begin(self: Any, args: Any, named: Any) -> Any:
        found = kept[GridExecutor, "_init_args_hst"](self, args, named)
        launch.ranges, launch.stored = {}, []
        for value in (*found[0], *found[1].values()):
            launch.take(value)
        return found

    def end(self: Any, *args: Any) -> Any:
        launch.end()
        return kept[GridExecutor, "_restore_args_dev"](self, *args)

    new = (load, store, atomic, begin, end)
    for (owner, name), function in zip(kept, new, strict=True):
        setattr(owner, name, function)
    try:
        yield
    finally:
        for (owner, name), function in kept.items():
            setattr(owner, name, function)
