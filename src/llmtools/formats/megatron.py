"""Megatron-LM's indexed data sets: `tokens.bin` with the ids, `tokens.idx` with where each part is.

    tokens.idx   "MMIDIDX" and two NULs; uint64 1, the version; uint8, the dtype's code;
                 uint64 S, the sequences; uint64 D + 1;
                 int32 [S] lengths; int64 [S] where each begins in tokens.bin, in bytes;
                 int64 [D + 1], the first sequence of each document, and S

All numbers are little-endian. One sequence is one document here.
Source: Megatron-LM, megatron/core/datasets/indexed_dataset.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.errors import InputError
from llmtools.formats.output import open_output

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
BIN_NAME, IDX_NAME = "tokens.bin", "tokens.idx"
CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}
# Up to here Megatron-LM itself chooses uint16, else int32.
MAX_UINT16_SIZE = 65499
_HEAD = struct.Struct("<9sQBQQ")


def write_megatron(
    folder: Path, documents: Iterable[npt.NDArray[Any]], dtype: np.dtype[Any]
) -> None:
    """Write both files into a folder. dtype: one of CODES that holds every id."""
    lengths: list[npt.NDArray[np.int64]] = []
    held: list[int] = []
    with open_output(str(folder / BIN_NAME), compress=False) as out:
        for ids in documents:
            if len(ids) > np.iinfo(np.int32).max:
                raise InputError(f"a document of {len(ids):,} tokens; Megatron's index has 31 bits")
            out.write(ids.astype(dtype).view(np.uint8).data)
            held.append(len(ids))
            if len(held) == 1 << 16:
                lengths.append(np.array(held, np.int64))
                held = []
    sizes = np.concatenate([*lengths, np.array(held, np.int64)])
    starts = np.zeros(len(sizes), np.int64)
    np.cumsum(sizes[:-1] * dtype.itemsize, out=starts[1:])
    with open_output(str(folder / IDX_NAME), compress=False) as out:
        out.write(_HEAD.pack(MAGIC, VERSION, CODES[dtype.name], len(sizes), len(sizes) + 1))
        for numbers in (
            sizes.astype("<i4"),
            starts.astype("<i8"),
            np.arange(len(sizes) + 1, dtype="<i8"),
        ):
            out.write(numbers.view(np.uint8).data)
