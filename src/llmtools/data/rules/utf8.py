"""Characters of UTF-8 texts, for kernels: what each is, and what white space leaves of a span.

index, blocks: the table of `characters`. The texts are valid UTF-8, as those of documents are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmtools.data.rules.characters import SPACE
from llmtools.instructions import bits_in, trailing_zeros
from llmtools.jit import inlined

Bytes = npt.NDArray[np.uint8]
Kinds = npt.NDArray[np.uint16]

_ONE, _NONE = np.uint64(1), np.uint64(0)


@inlined
def width_of(c: int) -> int:
    """Bytes of the character that starts with the byte c."""
    return 1 if c < 0x80 else (2 if c < 0xE0 else (3 if c < 0xF0 else 4))


@inlined
def code_at(buffer: Bytes, i: int, width: int) -> int:
    """The code point of `width` bytes at i."""
    if width == 1:
        return int(buffer[i])
    code = int(buffer[i]) & (0x7F >> width)
    for k in range(1, width):
        code = (code << 6) | (int(buffer[i + k]) & 0x3F)
    return code


@inlined
def class_at(buffer: Bytes, i: int, index: Kinds, blocks: Kinds) -> tuple[int, int]:
    """The class of the character that starts at byte i, and its width in bytes."""
    c = int(buffer[i])
    if c < 0x80:
        return int(blocks[c]), 1
    width = width_of(c)
    code = code_at(buffer, i, width)
    return int(blocks[int(index[code >> 8]) * 256 + (code & 255)]), width


@inlined
def strip(buffer: Bytes, start: int, stop: int, index: Kinds, blocks: Kinds) -> tuple[int, int]:
    """The bytes that white space at both ends leaves (str.strip)."""
    if start < stop and 0x20 < buffer[start] < 0x80 and 0x20 < buffer[stop - 1] < 0x80:
        # Most spans; of ASCII only the space and controls before it are white space.
        return start, stop
    while start < stop:
        found, width = class_at(buffer, start, index, blocks)
        if found & SPACE == 0:
            break
        start += width
    while start < stop:
        last = stop - 1
        while buffer[last] & 0xC0 == 0x80:
            last -= 1
        if class_at(buffer, last, index, blocks)[0] & SPACE == 0:
            break
        stop = last
    return start, stop


@inlined
def inside(marks: np.uint64, left: int) -> np.uint64:
    """Those of 64 bits that belong to the `left` bytes before an end."""
    if left >= 64:
        return marks
    return np.uint64(marks & ((_ONE << np.uint64(max(left, 0))) - _ONE))


@inlined
def next_line_feed(buffer: Bytes, start: int, stop: int) -> int:
    """The place of the first line feed from `start` on; `stop` where there is none before."""
    for block in range(start, stop, 64):
        feeds = bits_in(buffer, block, 10, 10)
        if feeds != _NONE:
            return int(min(block + trailing_zeros(feeds), stop))
    return stop
