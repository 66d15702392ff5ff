"""Ctrl-C and SIGTERM: the command unwinds once, and further signals do not disturb its clean-up.

Training replaces these handlers while it can save its state (train/watch.py).
"""

from __future__ import annotations

import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any

# Clean-up takes milliseconds. A signal after this long finds it stuck and ends the process at once.
GRACE_S = 2.0
# Libraries swallow exceptions while they are imported or called back; it is raised again this soon.
AGAIN_S = 0.2

_received: int | None = None
_received_s = 0.0
_num_holds = 0
_waiting: int | None = None


def install() -> None:
    """Let SIGINT and SIGTERM unwind this process; SIGINT stays ignored where the parent did."""
    signal.signal(signal.SIGTERM, _unwind)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _unwind)
    sys.unraisablehook = report_unraisable


def ignore() -> None:
    """The command has ended: no signal turns its result into a traceback any more."""
    if signal.getsignal(signal.SIGALRM) is _unwind_again:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is _unwind:
            signal.signal(number, signal.SIG_IGN)


class held:
    """Signals wait until the block has ended, so that what it makes is known to the clean-up."""

    def __enter__(self) -> None:
        global _num_holds
        _num_holds += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _num_holds, _waiting
        _num_holds -= 1
        if _waiting is not None and not _num_holds:
            signum, _waiting = _waiting, None
            _unwind(signum, None)


def received() -> int | None:
    """The signal that this process is unwinding from, if any."""
    return _received


def _unwind(signum: int, frame: FrameType | None) -> None:
    global _received, _received_s, _waiting
    if _num_holds:
        _waiting = signum
        return
    now = time.monotonic()
    if _received is not None:
        if now - _received_s >= GRACE_S:
            os._exit(128 + signum)
        return
    _received, _received_s = signum, now
    signal.signal(signal.SIGALRM, _unwind_again)
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
    _raise(signum)


def _unwind_again(signum: int, frame: FrameType | None) -> None:
    if _received is not None and not _num_holds:
        _raise(_received)


def _raise(signum: int) -> None:
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + signum)


def report_unraisable(unraisable: Any) -> None:
    """Python's own report of what came up in a finalizer or a callback, but not while a signal
    unwinds: the signal itself may have come up there, and comes up again soon; and objects that it
    cut short in their making have finalizers that fail."""
    if _received is None:
        sys.__unraisablehook__(unraisable)
