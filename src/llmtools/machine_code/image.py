"""Machine code that runs wherever it is put: what is stored of a kernel, and how it gets to run."""

from __future__ import annotations

import ctypes
import functools
import json
import mmap
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

import xxhash

PAGE = 4096
_READ_AND_RUN = 1 | 4
_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The bytes of a program part and what has to be written into them when their place is known.

    code:      executable pages first, then data; both begin at a page.
    data_at:   where the data begins.
    entry:     where the function begins.
    places:    (offset, offset): 8 bytes that hold an address in the image itself.
    functions: (offset, name): 8 bytes that hold the address of a function of the C library.
    result:    what the function returns, see calls.py.
    """

    code: bytes
    data_at: int
    entry: int
    places: list[tuple[int, int]]
    functions: list[tuple[int, str]]
    result: Any

    def to_bytes(self, stamp: str) -> bytes:
        """For a file. stamp: what the image was made from."""
        about = asdict(self) | {"stamp": stamp}
        del about["code"]
        body = json.dumps(about).encode() + b"\n" + self.code
        return xxhash.xxh3_64_digest(body) + body


def from_bytes(stored: bytes, stamp: str) -> Image | None:
    """None where the file is damaged, or of something else than `stamp`."""
    body = stored[_DIGEST_BYTES:]
    if xxhash.xxh3_64_digest(body) != stored[:_DIGEST_BYTES]:
        return None
    head, _, code = body.partition(b"\n")
    about = json.loads(head)
    return Image(code=code, **about) if about.pop("stamp") == stamp else None


def is_supported() -> bool:
    """Whether images are made for this kind of machine; numba alone serves the others."""
    is_cpython = sys.implementation.name == "cpython"
    return is_cpython and sys.platform == "linux" and os.uname().machine == "x86_64"


@functools.cache
def processor() -> str:
    """What the machine can run: code made for one processor may not run on another.

    A folder of stored code may belong to several machines. Raises OSError where nobody says.
    """
    with open("/proc/cpuinfo", "rb") as file:
        first = file.read(1 << 14).partition(b"\n\n")[0].decode(errors="replace")
    wanted = ("vendor_id", "cpu family", "model", "flags")
    return "\n".join(line for line in first.splitlines() if line.startswith(wanted))


@functools.cache
def address_of(name: str) -> int | None:
    """Where a function of the C library is in this process; None for others."""
    for library in (None, "libm.so.6"):
        try:
            function = getattr(ctypes.CDLL(library), name)
        except (AttributeError, OSError):
            continue
        return ctypes.cast(function, ctypes.c_void_p).value
    return None


def load(image: Image) -> int:
    """Put an image into memory for good; returns the address of its function.

    Pages are never writable and executable at once. Raises OSError where the system allows no new
    code at all.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, len(image.code), flags, mmap.PROT_READ | mmap.PROT_WRITE)
    memory.write(image.code)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for offset, target in image.places:
        memory[offset : offset + 8] = (base + target).to_bytes(8, "little")
    for offset, name in image.functions:
        address = address_of(name)
        if address is None:
            raise OSError(f"the C library has no function {name!r}")
        memory[offset : offset + 8] = address.to_bytes(8, "little")
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    if protect(ctypes.c_void_p(base), ctypes.c_size_t(image.data_at), _READ_AND_RUN) != 0:
        raise OSError(ctypes.get_errno(), "memory cannot be made executable")
    # A function may be called until the process ends.
    _LOADED.append(memory)
    return base + image.entry


_LOADED: list[mmap.mmap] = []
