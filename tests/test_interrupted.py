"""How a process ends that was interrupted while its threads were at work."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Python's own shutdown would run what is registered with atexit; leaving at once does not.
PROGRAM = """
import atexit, os, signal, sys, threading, time
from llmtools import cli

atexit.register(lambda: print("shutdown"))

def work():
    {thread}
    signal.raise_signal(signal.SIGINT)

cli.run = lambda argv: cli.guarded(work, False)
cli.main([])
"""
THREAD = "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
JOINED = """thread = threading.Thread(target=time.sleep, args=(60,), daemon=True)
    thread.start()
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    thread.join()"""


@pytest.mark.parametrize(("thread", "said"), [(THREAD, ""), (JOINED, ""), ("pass", "shutdown\n")])
def test_no_thread_is_stopped_below_a_librarys_frames(thread: str, said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(thread=thread)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (130, said)
    assert ended.stderr.endswith("interrupted\n")


FINALIZED = """
import signal, time
from llmtools import cli

class Late:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

class Half:
    def __init__(self):
        signal.raise_signal(signal.SIGINT)
        self.handle = 1

    def __del__(self):
        self.handle

class Broken:
    def __del__(self):
        raise ValueError("of no signal")

def work():
    {made}()
    time.sleep({seconds})

cli.run = lambda argv: cli.guarded(work, False)
cli.main([])
"""


def finalized(made: str, seconds: int) -> subprocess.CompletedProcess[str]:
    program = FINALIZED.format(made=made, seconds=seconds)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("made", ["Late", "Half"])
def test_a_signal_in_a_finalizer_or_in_the_making_of_an_object_is_one_message(made: str) -> None:
    ended = finalized(made, 60)
    assert (ended.returncode, ended.stderr) == (130, "error: interrupted\n")


def test_a_finalizer_that_fails_without_a_signal_is_reported() -> None:
    ended = finalized("Broken", 0)
    assert ended.returncode == 0 and "ValueError: of no signal" in ended.stderr
