"""Make src/llmtools/tokenizer/classes.bin: what each code point is to the rules that split text.

    python tools/generate_split_classes.py

The classes are asked of the `tokenizers` library itself, whose regular expressions and character
tables have a Unicode version of their own.
"""

from __future__ import annotations

import zlib

import numpy as np
from tokenizers import Regex, pre_tokenizers

from llmtools.tokenizer import classes as c

SURROGATES = range(0xD800, 0xE000)


def matching(pattern: str, text: str) -> set[str]:
    """The characters of `text` that a regular expression matches."""
    split = pre_tokenizers.Split(Regex(pattern), behavior="removed")
    return set(text) - {sign for piece, _ in split.pre_tokenize_str(text) for sign in piece}


def alone(splitter: pre_tokenizers.PreTokenizer, text: str) -> tuple[set[str], set[str]]:
    """The characters that a splitter makes a piece of their own, and those that it removes."""
    spread = "aa" + "".join(sign + "aa" for sign in text)
    pieces = [piece for piece, _ in splitter.pre_tokenize_str(spread)]
    left = {sign for piece in pieces for sign in piece}
    return {piece for piece in pieces if len(piece) == 1}, set(text) - left


def table() -> np.ndarray:
    """The flags of every code point, uint8 [0x110000]."""
    flags = np.zeros(0x110000, np.uint8)
    for start in range(0, 0x110000, 1 << 14):
        codes = [code for code in range(start, start + (1 << 14)) if code not in SURROGATES]
        text = "".join(map(chr, codes))
        digits, _ = alone(pre_tokenizers.Digits(individual_digits=True), text)
        signs, blanks = alone(pre_tokenizers.BertPreTokenizer(), text)
        found = {
            c.LETTER: matching(r"\p{L}", text),
            c.NUMBER: matching(r"\p{N}", text),
            c.SPACE: matching(r"\s", text),
            c.DIGIT: digits,
            c.SIGN: signs,
            c.BLANK: blanks,
        }
        for bit, members in found.items():
            flags[[ord(sign) for sign in members]] |= bit
    return flags


def main() -> None:
    blocks, index = np.unique(table().reshape(-1, c.BLOCK), axis=0, return_inverse=True)
    # The first 128 classes are read without the index.
    order = np.argsort(np.arange(len(blocks)) != index.ravel()[0], kind="stable")
    blocks, index = blocks[order], np.argsort(order)[index.ravel()]
    data = index.astype("<u2").tobytes() + blocks.tobytes()
    c.PATH.write_bytes(zlib.compress(data, 9))
    print(f"{c.PATH.name}: {len(blocks)} blocks, {c.PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
