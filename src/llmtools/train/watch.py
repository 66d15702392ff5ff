"""Ctrl-C and SIGTERM during training: finish the step, save, and say how to resume."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from llmtools import terminal


class StopSignals:
    """While entered, the first SIGINT or SIGTERM sets `requested`; the second ends the process."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            before = self._previous[signum]
            if callable(before):
                # The program's own, which knows whether the process is unwinding already.
                before(signum, frame)
                return
            raise SystemExit(128 + signum)
        self.requested = True
        terminal.note("stopping: the step is finished and saved first; again to stop at once")
