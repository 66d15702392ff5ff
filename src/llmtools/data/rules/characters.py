"""What each code point is: one number of flags, in a table over all of Unicode.

characters.bin (made by tools/generate_characters.py, Unicode 14 as in Python 3.11 for the flags) is
a zlib stream of little-endian uint16: for each block of 256 code points its number, then the
blocks. Kernels read it as `blocks[index[c >> 8] * 256 + (c & 255)]`; block 0 holds ASCII.
"""

from __future__ import annotations

import functools
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.uint16]

PATH = Path(__file__).with_name("characters.bin")
BLOCK = 256

# The lowest five bits: the Word_Break property of UAX #29, 0 for Other.
WORD_BREAK = {
    "CR": 1,
    "LF": 2,
    "Newline": 3,
    "Extend": 4,
    "ZWJ": 5,
    "Format": 6,
    "Regional_Indicator": 7,
    "Katakana": 8,
    "Hebrew_Letter": 9,
    "ALetter": 10,
    "Single_Quote": 11,
    "Double_Quote": 12,
    "MidNumLet": 13,
    "MidLetter": 14,
    "MidNum": 15,
    "Numeric": 16,
    "ExtendNumLet": 17,
    "WSegSpace": 18,
}
WORD_BREAK_MASK = 31
# What str.isspace, .isalpha, .isalnum, .isupper, .isdigit and .isdecimal say.
SPACE = 1 << 5
ALPHA = 1 << 6
ALNUM = 1 << 7
UPPER = 1 << 8
DIGIT = 1 << 9
DECIMAL = 1 << 10
# datatrove 0.10.1: PUNCTUATION_SET and TERMINAL_PUNCTUATION.
PUNCTUATION = 1 << 11
TERMINAL = 1 << 12
# What str.splitlines cuts at, and Extended_Pictographic.
LINE_END = 1 << 13
PICTURE = 1 << 14


@functools.cache
def character_table() -> tuple[Table, Table]:
    """(index [0x1100], blocks [n * 256]): the class of code point c is described above."""
    data = np.frombuffer(zlib.decompress(PATH.read_bytes()), "<u2").astype(np.uint16)
    return data[: 0x110000 // BLOCK], data[0x110000 // BLOCK :]


def character_class(character: str) -> int:
    """The flags of one character."""
    index, blocks = character_table()
    code = ord(character)
    return int(blocks[int(index[code // BLOCK]) * BLOCK + code % BLOCK])
