"""What benchmarks share: CPU of a whole child process, environments for peers, plain tables.

A benchmark measures commands as a user starts them, so start-up counts. CPU seconds are the unit
of every comparison: wall time on a shared machine says more about its neighbours.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# The kernel counts what a process had before it called exec towards its peak: a child of the
# benchmark would begin with all of the benchmark's memory, a child of this begins with little.
_LAUNCHER = """
import os, sys
report = int(sys.argv[1])
os.set_inheritable(report, False)
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
os.write(report, f"{status} {usage.ru_utime + usage.ru_stime} {usage.ru_maxrss}".encode())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run of a program."""

    wall_s: float
    cpu_s: float
    """User + system time of the process and all descendants it waited for."""
    peak_bytes: int
    """Largest resident set of any process of the tree (never less than a bare Python's, 9 MB)."""
    stdout: bytes


def run_cpu(
    argv: Sequence[str | Path], env: Mapping[str, str] | None = None, stdin: Path | None = None
) -> Measurement:
    """Run a program and measure it; a failed run ends the benchmark with the program's stderr.

    `env` adds to this process's environment. An installed program has its byte code beside it, a
    source tree only where Python may write it.
    """
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with open(stdin or os.devnull, "rb") as source:
            reader, writer = os.pipe()
            start = time.perf_counter()
            # wait4 and not getrusage(RUSAGE_CHILDREN): that is a running total of all children,
            # and its peak memory that of the largest child ever waited for.
            launcher = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(writer), *map(str, argv)],
                env={**kept, **(env or {})},
                stdin=source,
                stdout=out,
                stderr=err,
                pass_fds=[writer],
            )
            os.close(writer)
            with open(reader, "rb") as pipe:
                said = pipe.read().split()
            launcher.wait()
            wall_s = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        code = os.waitstatus_to_exitcode(int(said[0])) if said else launcher.returncode
        if code != 0:
            tail = err.read().decode(errors="replace")[-4000:]
            sys.exit(f"exit {code}: {' '.join(map(str, argv))}\n{tail}")
        return Measurement(
            wall_s=wall_s,
            cpu_s=float(said[1]),
            peak_bytes=int(said[2]) * 1024,
            stdout=out.read(),
        )


def best_of(
    repeats: int, argv: Sequence[str | Path], env: Mapping[str, str] | None = None
) -> Measurement:
    """The run with the least CPU time of several."""
    return min((run_cpu(argv, env) for _ in range(repeats)), key=lambda m: m.cpu_s)


def cache_dir() -> Path:
    """Where peers are installed, outside the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "llmtools" / "benchmarks"


def peer_environment(name: str, requirements: list[str]) -> Path:
    """The python of a virtual environment that holds `requirements`, made on the first call.

    It lives in the user's cache, named by a hash of the requirements, so that a peer whose pins
    conflict with ours never touches our environment.
    """
    key = hashlib.sha256("\n".join(sorted(requirements)).encode()).hexdigest()[:12]
    folder = cache_dir() / f"{name}-{key}"
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if complete.exists():
        return python
    print(f"installing {', '.join(requirements)} into {folder}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "-qq", *requirements], check=True)
    complete.touch()
    return python


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """An aligned table on stdout; floats with three digits, columns of numbers right-aligned."""
    cells = [[f"{c:.3g}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        for i in range(len(header))
    ]
    for line in (list(header), ["-" * w for w in widths], *cells):
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        print("  ".join(padded).rstrip())
