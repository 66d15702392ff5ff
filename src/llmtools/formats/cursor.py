"""Reading a memory-mapped binary file front to back, every size held against what is left of it."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from llmtools.errors import InputError


class Cursor:
    """A position in a mapped file that refuses to step over its end.

    what: the part of the file that is being read, for messages.
    """

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0
        self.what = "the header"

    @property
    def left(self) -> int:
        """Bytes from here to the end."""
        return len(self.data) - self.at

    def fault(self, message: str) -> InputError:
        return InputError(f"{self.path}: {self.what} (byte {self.at}): {message}")

    def need(self, num_bytes: int) -> None:
        """Raise InputError unless that many bytes are left."""
        if num_bytes > self.left:
            raise self.fault(
                f"{num_bytes} bytes expected, {self.left} left; the file is cut short or damaged"
            )

    def number(self, code: str) -> int:
        """One integer of a `struct` code."""
        self.need(struct.calcsize(code))
        value: int
        (value,) = struct.unpack_from(code, self.data, self.at)
        self.at += struct.calcsize(code)
        return value


def map_file(path: Path, kind: str) -> mmap.mmap:
    """A file in memory, read-only; raises InputError for an empty or missing one.

    kind: what it should be, as 'a GGUF file'.
    """
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as fault:
        raise InputError(f"{path}: not {kind}: it is empty") from fault
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror or fault}") from fault
