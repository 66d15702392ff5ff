"""How a rank file of tiktoken is told from other files."""

from __future__ import annotations

import re

RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+=* [0-9]+")


def is_ranks(head: bytes) -> bool:
    """Whether the first bytes of a file are a whole line of a rank file."""
    line, found, _ = head.partition(b"\n")
    return bool(found) and RANK_LINE.fullmatch(line.rstrip(b"\r")) is not None
