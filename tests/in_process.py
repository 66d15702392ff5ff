"""The program in the tests' own process, so that many runs share one import of torch."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from llmtools import cli, terminal


class _Capture(io.TextIOWrapper):
    """A text stream over bytes that are still there when it has been closed."""

    def __init__(self) -> None:
        self.sink = io.BytesIO()
        super().__init__(self.sink, "utf-8", write_through=True)

    def taken(self) -> bytes:
        self.flush()
        return self.sink.getvalue()


@contextlib.contextmanager
def _as_a_process(cwd: Path, env: dict[str, str]) -> Iterator[None]:
    """Put back what a command changes and never does: its process ends."""
    import torch

    before, environment = Path.cwd(), dict(os.environ)
    threads, is_collecting, display = torch.get_num_threads(), gc.isenabled(), terminal.display()
    streams = sys.stdin, sys.stdout, sys.stderr
    argv = sys.argv
    os.chdir(cwd)
    os.environ.update(env)
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams
        sys.argv = argv
        terminal.configure(**{name: getattr(display, name) for name in display.__slots__})
        torch.set_num_threads(threads)
        if is_collecting:
            gc.enable()
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(before)


def run_here(
    *args: str | Path,
    stdin: bytes = b"",
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    check: bool = False,
) -> subprocess.CompletedProcess[bytes]:
    """Run `llm ARGS` like support.run_llm, without a process; `check` fails at a non-zero exit."""
    line = [str(arg) for arg in args]
    out, err = _Capture(), _Capture()
    with _as_a_process(cwd or Path.cwd(), env or {}):
        sys.stdin, sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO(stdin)), out, err
        sys.argv = ["llm", *line]
        try:
            code: object = cli.run(list(line))
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int) or code is None
    assert not check or not code, err.taken().decode()
    return subprocess.CompletedProcess(line, code or 0, out.taken(), err.taken())
