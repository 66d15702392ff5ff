"""Vectors of documents as other tools write them: a .npy file, or one tensor of a .safetensors.

A row for each document, in the documents' order. The file is mapped, not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from llmtools.errors import InputError
from llmtools.formats import tensor_header
from llmtools.formats.cursor import map_file

FLOATS = ("float16", "float32", "float64")


def open_vectors(path: Path) -> NDArray[Any]:
    """The vectors, (N, D), float16 to float64, as they lie in the file.

    Raises InputError for a file that is neither, or holds no matrix of floats.
    """
    data = map_file(path, "vectors (.npy or .safetensors)")
    if data[:6] == b"\x93NUMPY":
        return _check(_open_npy(path, len(data)), path)
    if not tensor_header.is_container(data[:9]):
        raise InputError(f"{path}: neither .npy nor .safetensors: it begins with {data[:8]!r}")
    with open(path, "rb") as file:
        header = tensor_header.read_header(file, str(path))
    assert header is not None
    matrices = [entry for entry in header.tensors.values() if len(entry.shape) == 2]
    if len(matrices) != 1:
        named = ", ".join(entry.name for entry in matrices) or "none"
        raise InputError(f"{path}: {len(matrices)} matrices ({named}), one was expected")
    if header.data_start + header.data_bytes > len(data):
        raise InputError(f"{path}: truncated: {header.data_bytes} bytes of tensors announced")
    entry = matrices[0]
    if entry.dtype not in ("F16", "F32", "F64"):
        raise InputError(f"{path}: tensor {entry.name!r} is {entry.dtype}; F16, F32 or F64")
    return _check(tensor_header.view(entry, memoryview(data)[header.data_start :]), path)


def _open_npy(path: Path, num_bytes: int) -> NDArray[Any]:
    try:
        with open(path, "rb") as file:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, in_columns, dtype = read(file)
            start = file.tell()
    except (ValueError, OSError) as fault:
        raise InputError(f"{path}: not a .npy file: {fault}") from fault
    if dtype.hasobject or dtype.name not in FLOATS or len(shape) != 2 or min(shape) < 0:
        raise InputError(f"{path}: {shape} of {dtype}; a matrix of {', '.join(FLOATS)} is needed")
    if start + shape[0] * shape[1] * dtype.itemsize > num_bytes:
        raise InputError(f"{path}: truncated: {shape} of {dtype} announced, {num_bytes} bytes")
    if not min(shape):
        return np.zeros(shape)
    return np.memmap(path, dtype, "r", start, shape, "F" if in_columns else "C")


def _check(vectors: NDArray[Any], path: Path) -> NDArray[Any]:
    if not vectors.shape[0] or not vectors.shape[1]:
        raise InputError(f"{path}: {vectors.shape[0]} vectors of {vectors.shape[1]} numbers")
    return vectors
