"""Lists that rules are given as files: one entry a line."""

from __future__ import annotations

from collections.abc import Iterator

from llmtools.errors import InputError
from llmtools.formats.stream import open_input


def list_lines(path: str) -> Iterator[str]:
    """The lines of a file, compressed or not, stripped and without blank ones.

    Raises InputError for a file that cannot be read or a line that is not UTF-8.
    """
    with open_input(path) as stream:
        for number, line in enumerate(stream.lines(), 1):
            try:
                entry = line.decode().strip()
            except UnicodeDecodeError as fault:
                raise InputError(f"{path}:{number}: not UTF-8 at byte {fault.start}") from fault
            if entry:
                yield entry
