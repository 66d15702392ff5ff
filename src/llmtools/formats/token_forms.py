"""What ids can be written as for other programs, beside token frames.

jsonl     one record a document: {"id": ..., "ids": [...]}
raw       the ids alone, documents in turn, little-endian
npy       the same as one array in numpy's own file
megatron  a directory with Megatron-LM's tokens.bin and tokens.idx
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from llmtools.errors import UsageError
from llmtools.formats.input_names import STDIO, bare_suffix
from llmtools.formats.manifest import Recorder
from llmtools.formats.megatron import CODES, MAX_UINT16_SIZE, write_megatron
from llmtools.formats.output import atomic_directory, is_device, open_output, output_faults
from llmtools.formats.stream import READ_BYTES

TokenFormat = Literal["frames", "jsonl", "raw", "npy", "megatron"]
DtypeName = Literal["auto", "uint16", "uint32", "int32", "int64"]
FORMATS: tuple[str, ...] = get_args(TokenFormat)
DTYPES: tuple[str, ...] = get_args(DtypeName)
# What a name that ends so asks for, and frames would make a directory of.
_FORM_OF_SUFFIX = {".jsonl": "jsonl", ".json": "jsonl", ".npy": "npy", ".bin": "raw"}
# numpy pads its header to a multiple of this.
_ALIGN = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenForm:
    """How ids are written. raises: UsageError for names that do not exist or go together."""

    name: str = "frames"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.name not in FORMATS:
            raise UsageError(f"--format {self.name}: must be one of {', '.join(FORMATS)}")
        if self.dtype not in DTYPES:
            raise UsageError(f"--dtype {self.dtype}: must be one of {', '.join(DTYPES)}")
        if self.dtype != "auto" and self.name in ("frames", "jsonl"):
            raise UsageError(f"--dtype {self.dtype} has no effect with --format {self.name}")
        if self.name == "megatron" and self.dtype == "uint32":
            raise UsageError("--dtype uint32: Megatron's files have no such dtype; take int32")

    def dtype_for(self, vocab_size: int) -> np.dtype[Any]:
        """The dtype of the ids; raises UsageError where a vocabulary does not fit into it."""
        if self.dtype == "auto":
            if self.name == "megatron":
                return np.dtype("<u2" if vocab_size <= MAX_UINT16_SIZE else "<i4")
            return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
        found = np.dtype(self.dtype).newbyteorder("<")
        if vocab_size - 1 > np.iinfo(found).max:
            raise UsageError(
                f"--dtype {self.dtype} holds ids up to {np.iinfo(found).max:,}, this vocabulary has"
                f" {vocab_size:,}; take a wider one, or auto"
            )
        return found

    def check_output(self, output: str) -> None:
        """Raises UsageError where this form cannot be written to such an output."""
        if self.name == "megatron" and (output == STDIO or is_device(output)):
            raise UsageError("--format megatron writes two files; name a directory with -o")

    def check_name(self, output: str) -> None:
        """Raises UsageError where the name that a person gave an output asks for another form."""
        other = _FORM_OF_SUFFIX.get(bare_suffix(output))
        if self.name == "frames" and other is not None:
            raise UsageError(
                f"{output}: token frames are written to a directory or a .safetensors file; for a"
                f" file of this name add --format {other}"
            )


def write_form(
    output: str,
    documents: Iterable[npt.NDArray[Any]],
    form: TokenForm,
    dtype: np.dtype[Any],
    recorder: Recorder,
    *,
    force: bool,
) -> None:
    """Write documents' ids as raw, npy or megatron, and their manifest."""
    if form.name == "megatron":
        assert dtype.name in CODES
        with atomic_directory(output, force=force) as directory:
            write_megatron(directory, documents, dtype)
            recorder.wrote_tree(directory)
            recorder.write_beside(directory)
        return
    with open_output(output, force=force, is_binary=True) as out:
        parts = (ids.astype(dtype).view(np.uint8).data for ids in documents)
        if form.name == "raw":
            for part in parts:
                out.write(part)
        else:
            folder = (
                None if output == STDIO or is_device(output) else Path(output).absolute().parent
            )
            # The header holds the number of ids, and comes first.
            with output_faults(output), tempfile.TemporaryFile(dir=folder) as held:
                for part in parts:
                    held.write(part)
                out.write(npy_header((held.tell() // dtype.itemsize,), dtype))
                held.seek(0)
                while block := held.read(READ_BYTES):
                    out.write(block)
    recorder.wrote(out)
    recorder.write_beside(output)


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """The head of a .npy file, version 1.0. Source: NEP 1."""
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape!r}, }}"
    room = -(len(text) + 11) % _ALIGN
    body = text.encode() + b" " * room + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body
