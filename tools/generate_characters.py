"""Make src/llmtools/data/rules/characters.bin: what each code point is to the filter rules.

    python tools/generate_characters.py DATATROVE

DATATROVE is an unpacked wheel of datatrove, whose lists of punctuation the Gopher and FineWeb rules
count by. Word_Break and Extended_Pictographic come from the `regex` package, all else from str.
"""

from __future__ import annotations

import ast
import sys
import zlib
from pathlib import Path

import numpy as np
import regex

from llmtools.data.rules import characters as c

LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def punctuation(package: Path) -> tuple[set[str], set[str]]:
    """datatrove's PUNCTUATION_SET and TERMINAL_PUNCTUATION, read without importing it."""
    wanted = ("PUNCTUATION", "TERMINAL_PUNCTUATION", "PUNCTUATION_SET")
    tree = ast.parse((package / "datatrove/utils/text.py").read_text())
    kept = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in wanted
    ]
    names: dict[str, set[str]] = {}
    exec(compile(ast.Module(kept, []), "text.py", "exec"), names)
    return names["PUNCTUATION_SET"], names["TERMINAL_PUNCTUATION"]


def main() -> None:
    signs, terminal = punctuation(Path(sys.argv[1]))
    word_break = np.zeros(0x110000, np.uint16)
    everything = "".join(map(chr, range(0x110000)))
    for name, number in c.WORD_BREAK.items():
        for match in regex.finditer(rf"\p{{WB={name}}}+", everything):
            word_break[match.start() : match.end()] = number
    pictures = {m.group() for m in regex.finditer(r"\p{Extended_Pictographic}", everything)}
    flags = {
        c.SPACE: str.isspace,
        c.PUNCTUATION: signs.__contains__,
        c.TERMINAL: terminal.__contains__,
        c.ALPHA: str.isalpha,
        c.ALNUM: str.isalnum,
        c.UPPER: str.isupper,
        c.DIGIT: str.isdigit,
        c.DECIMAL: str.isdecimal,
        c.LINE_END: LINE_ENDS.__contains__,
        c.PICTURE: pictures.__contains__,
    }
    table = word_break
    for bit, test in flags.items():
        table |= np.array([bit if test(sign) else 0 for sign in everything], np.uint16)
    blocks, index = np.unique(table.reshape(-1, c.BLOCK), axis=0, return_inverse=True)
    # The first 128 classes are read without the index.
    order = np.argsort(np.arange(len(blocks)) != index.ravel()[0], kind="stable")
    blocks, index = blocks[order], np.argsort(order)[index.ravel()]
    data = index.astype("<u2").tobytes() + blocks.astype("<u2").tobytes()
    c.PATH.write_bytes(zlib.compress(data, 9))
    print(f"{c.PATH.name}: {len(blocks)} blocks, {c.PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
