"""What each code point is to the rules that split text into words.

classes.bin (made by tools/generate_split_classes.py, which asks the `tokenizers` library) is a zlib
stream: for each block of 256 code points its number, little-endian uint16, then the blocks, a byte
of flags for each code point. Block 0 holds ASCII.
"""

from __future__ import annotations

import functools
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

PATH = Path(__file__).with_name("classes.bin")
BLOCK = 256

# \p{L}, \p{N} and \s of the library's regular expressions.
LETTER = 1
NUMBER = 2
SPACE = 4
# What its Digits splitter takes for a digit, its BertPreTokenizer for punctuation and for a space.
DIGIT = 8
SIGN = 16
BLANK = 32


@functools.cache
def class_table() -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """(index [0x1100], blocks [n * 256]): c has the flags blocks[256 * index[c >> 8] + c % 256]."""
    data = zlib.decompress(PATH.read_bytes())
    cut = 2 * 0x110000 // BLOCK
    return np.frombuffer(data[:cut], "<u2").astype(np.uint16), np.frombuffer(data[cut:], np.uint8)
