"""What one rendering of a chat template may still do: steps, characters made, processor time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError

MAX_VALUE_CHARS = 1 << 24
MAX_VALUE_ITEMS = 1 << 20
# Each limit of a rendering is a constant, and so much more for every character or string of what it
# is given: a conversation of ten thousand messages takes its template as many rounds.
STEPS = 1 << 18
STEPS_PER_STRING = 1 << 8
CPU_S = 2.0
CPU_S_PER_STRING = 1e-3
MADE_CHARS = 1 << 26
MADE_PER_CHAR = 64
# What an item of a list weighs beside a character.
ITEM_CHARS = 8
# What a piece of a text that is cut up weighs: a string of its own.
PIECE_CHARS = 64
STEPS_PER_CLOCK = 16


class Budget:
    """What one rendering may still do; every method raises SecurityError where it is spent."""

    def __init__(self, inputs: Sequence[str], marks: tuple[str, str] | None = None) -> None:
        self.marks = marks
        self._steps = STEPS + STEPS_PER_STRING * len(inputs)
        self._chars = MADE_CHARS + MADE_PER_CHAR * sum(map(len, inputs))
        self._cpu_s = CPU_S + CPU_S_PER_STRING * len(inputs)
        self._until = time.thread_time() + self._cpu_s
        self._clock = STEPS_PER_CLOCK

    def spend(self, count: int = 1) -> None:
        """Charge loop rounds, calls and operations."""
        self._steps -= count
        if self._steps < 0:
            raise SecurityError("too many loop rounds and operations")
        self._clock -= 1
        if self._clock < 0:
            self._clock = STEPS_PER_CLOCK
            # The thread's own time: a busy machine makes no template slower.
            if time.thread_time() > self._until:
                raise SecurityError(f"more than {self._cpu_s:.3g} s of processor time")

    def make(self, chars: int) -> None:
        """Charge a value of so many characters."""
        if chars > MAX_VALUE_CHARS:
            raise SecurityError(f"a value grows too large (limit {MAX_VALUE_CHARS} characters)")
        self._chars -= chars
        if self._chars < 0:
            raise SecurityError("its values together grow too large")

    def made(self, value: Any) -> Any:
        """Charge a value that is there already, its surface only; the value."""
        if isinstance(value, str):
            self.make(len(value))
        elif isinstance(value, list | tuple | dict | set):
            self.make(ITEM_CHARS * len(value))
        return value

    def weigh(self, value: Any) -> int:
        """About the characters of a value's text, all that it holds counted each time it is held.

        A list that holds another twice, which holds another twice ..., is small in memory and
        endless when it is written or compared.
        """
        if isinstance(value, str):
            return len(value)
        chars = items = 0
        left = [value]
        while left:
            one = left.pop()
            items += 1
            if isinstance(one, str):
                chars += len(one)
            elif isinstance(one, dict):
                left += one.keys()
                left += one.values()
            elif isinstance(one, list | tuple | set):
                left += one
            if items + len(left) > MAX_VALUE_ITEMS or chars > MAX_VALUE_CHARS:
                raise SecurityError(
                    f"a value grows too large (limits: {MAX_VALUE_ITEMS} items,"
                    f" {MAX_VALUE_CHARS} characters)"
                )
        self.spend(items // 16)
        return chars + 4 * items


_current: ContextVar[Budget] = ContextVar("budget of the rendering under way")


def start(budget: Budget) -> None:
    """Begin a rendering in this thread or task."""
    _current.set(budget)


def current() -> Budget:
    """The budget of the rendering under way."""
    return _current.get()
