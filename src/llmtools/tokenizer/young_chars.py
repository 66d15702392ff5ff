"""Characters that encoders see by different editions of Unicode.

Whether a character is a letter, a digit or a mark decides where a split rule cuts. `tokenizers`
0.23 knows the classes of Unicode 15 (and composes by those of Unicode 9), gigatoken 0.10 those of
Unicode 17, so ids differ around characters that came between. Texts that hold one are left to the
reference. Whole scripts are taken, so that little hangs on the edition; none of them is common.
tests/tokenizer/test_young_chars.py compares all other characters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_RANGES = (
    (0x7FD, 0x7FE),
    (0x88F, 0x8D4),
    (0x9FE, 0x9FF),
    (0xC3C, 0xC3D),
    (0xC5C, 0xC5D),
    (0xCDC, 0xCDD),
    (0xD3B, 0xD3D),
    (0xEBA, 0xEBB),
    (0x1715, 0x1716),
    (0x1ABF, 0x1AEC),
    (0x1DF6, 0x1DFB),
    (0xA7CB, 0xA7F2),
    (0xA82C, 0xA82D),
    # Halves of pairs: all scripts beyond U+FFFF but the kana supplements, music and mathematics ...
    (0xD800, 0xD82C),
    (0xD82D, 0xD834),
    (0xD836, 0xD83B),
    # ... and ideographs from the end of extension B to the tags.
    (0xD869, 0xDB40),
)
_FIRST = _RANGES[0][0]


def _table() -> np.ndarray:
    table = np.zeros(1 << 16, bool)
    for start, end in _RANGES:
        table[start:end] = True
    return table


_IS_YOUNG = _table()


def any_young(texts: Sequence[str]) -> bool:
    """Whether any of the texts holds a character that encoders may differ on: 1 to 2 ns for each
    character of those that are not ASCII."""
    joined = "".join(text for text in texts if not text.isascii())
    units = np.frombuffer(joined.encode("utf-16-le", "surrogatepass"), np.uint16)
    return bool(_IS_YOUNG[units[units >= _FIRST]].any())
