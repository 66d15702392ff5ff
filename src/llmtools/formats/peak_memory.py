"""The most memory that a process has held."""

from __future__ import annotations

import resource
import sys


def peak_memory() -> int:
    """Bytes of this process at most so far.

    Where the system says it of this program alone (VmHWM, Linux). What getrusage says begins with
    the memory of the program that started this one.
    """
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024
