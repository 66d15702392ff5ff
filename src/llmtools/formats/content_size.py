"""How large the data in a compressed file is, without decompressing it."""

from __future__ import annotations

import os
from typing import BinaryIO

import zstandard

from llmtools.errors import InputError
from llmtools.formats import parquet

# Data bytes for each stored byte where the file does not say: English prose as JSON lines.
RATIOS = {"gzip": 2.9, "zstd": 3.2, "bzip2": 3.6}
_CHECKSUM_BYTES = 4
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
# The longest header of a frame: magic, descriptor, window, dictionary id, content size.
_LONGEST_HEADER = 18


def content_size(path: str) -> tuple[int, bool]:
    """(bytes of data in a file, whether that is exact).

    Exact for a plain file, and for zstd whose frames state their size; for Parquet about what its
    columns take; else the stored size times a ratio. Raises InputError where the file cannot be
    read.
    """
    try:
        stored = os.path.getsize(path)
        with open(path, "rb") as file:
            magic = file.read(4)
            if magic == b"\x28\xb5\x2f\xfd":
                file.seek(0)
                exact = _zstd_size(file, stored)
                return (round(stored * RATIOS["zstd"]), False) if exact is None else (exact, True)
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror or fault}") from fault
    if magic == parquet.MAGIC:
        return parquet.content_bytes(path), False
    if magic[:2] == b"\x1f\x8b":
        return round(stored * RATIOS["gzip"]), False
    if magic[:3] == b"BZh":
        return round(stored * RATIOS["bzip2"]), False
    return stored, True


def _zstd_size(file: BinaryIO, stored: int) -> int | None:
    """The sum over frames, stepping from block header to block header; None where one is silent.

    Source: RFC 8878, sections 3.1.1 and 3.1.2.
    """
    total = 0
    while file.tell() < stored:
        start = file.tell()
        head = file.read(_LONGEST_HEADER)
        if int.from_bytes(head[:4], "little") in _SKIPPABLE:
            file.seek(start + 8 + int.from_bytes(head[4:8], "little"))
            continue
        try:
            frame = zstandard.get_frame_parameters(head)
            at = start + zstandard.frame_header_size(head)
        except zstandard.ZstdError:
            return None
        if frame.content_size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
            return None
        total += frame.content_size
        is_last = False
        while not is_last:
            file.seek(at)
            block = int.from_bytes(file.read(3), "little")
            is_last = bool(block & 1)
            # Type 1 repeats one stored byte.
            at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
            if at > stored:
                return None
        file.seek(at + (_CHECKSUM_BYTES if frame.has_checksum else 0))
    return total
