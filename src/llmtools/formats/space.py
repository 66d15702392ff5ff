"""Room on a disk, asked before work whose output would not fit."""

from __future__ import annotations

import os
from pathlib import Path

from llmtools.errors import ResourceError
from llmtools.formats.input_names import STDIO
from llmtools.formats.output import is_device


def free_bytes(path: str | Path) -> int:
    """Bytes that can be written on the disk where `path` lies or would lie."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def check_space(path: str | Path, needed: int) -> None:
    """Raises ResourceError, with both numbers, where an output of `needed` bytes cannot fit."""
    if str(path) == STDIO or is_device(str(path)):
        return
    free = free_bytes(path)
    if needed > free:
        raise ResourceError(
            f"{path}: about {needed:,} bytes would be written, and its disk has {free:,} free;"
            " make room, or choose an output on another disk"
        )
