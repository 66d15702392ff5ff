"""Settings of a command's process: memory, garbage, threads."""

from __future__ import annotations

import gc
import os
import sys


def lean_process() -> None:
    """Settings of a command that only streams records through kernels; call before heavy imports.

    Records hold no reference cycles, yet looking for cycles takes a sixth of such a command's CPU
    time, most of it while numba is imported. And OpenBLAS, which is not used, would start a thread
    per core when numpy is imported. And numba imports scipy, where it is installed, only to look at
    its BLAS, for 0.1 s.
    """
    gc.disable()
    sys.modules.setdefault("scipy", None)  # type: ignore[arg-type]
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _keep_freed_memory()


# Parameters of glibc's mallopt, and its limit for the second.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK = 32 << 20
_MOST_KEPT = 64 << 20


def _keep_freed_memory() -> None:
    """Blocks of records that are freed stay with the process for the next ones.

    glibc gives them back to the kernel, which clears every page anew: a tenth of the CPU time of
    `llm dedup --method exact`. Other C libraries have no such function, and nothing is done.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT)


def let_threads_sleep() -> None:
    """Idle threads of torch sleep instead of spinning; call before torch is imported.

    Decoding alternates short parallel regions with serial code. With two threads on two cores that
    had other work too, a SmolLM2 step took 83 ms of CPU spinning and 42 ms sleeping, and a batch of
    8 made 17 against 50 tokens a second.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def use_threads(threads: int | None) -> None:
    """Limit torch's threads in this process; all cores when None."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
