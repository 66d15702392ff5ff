"""Packed rows as other programs read them, in a directory.

    raw       input_ids.bin, rows [N, seq_len + 1] in turn, little-endian
    npy       input_ids.npy and what packed.py calls segments, segment_offsets, segment_document_ids
    megatron  Megatron-LM's tokens.bin and tokens.idx, one sequence and one document a row

loss_mask.bin or loss_mask.npy lies beside them where some tokens are no targets; Megatron's files
have no place for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.formats.megatron import write_megatron
from llmtools.formats.output import open_output
from llmtools.formats.packed import RowBlock
from llmtools.formats.stream import READ_BYTES
from llmtools.formats.token_forms import TokenForm, npy_header
from llmtools.formats.tokens import Vocabulary

_SPOOL = ".spooled-{}"


class RowExport:
    """Takes rows as PackedWriter does; all but the segments' counts waits on disk until `close`.

    raises: UsageError where the vocabulary does not fit into the form's dtype.
    """

    num_shards = 1

    def __init__(
        self, directory: Path, *, seq_len: int, vocabulary: Vocabulary, form: TokenForm
    ) -> None:
        self._directory, self._form = directory, form
        self.seq_len, self.vocabulary = seq_len, vocabulary
        self.num_rows = 0
        self.has_mask = False
        self._counts: list[npt.NDArray[Any]] = []
        self._dtypes: dict[str, np.dtype[Any]] = {
            "input_ids": form.dtype_for(vocabulary.vocab_size),
            "loss_mask": np.dtype("<u1"),
        }
        if form.name == "npy":
            self._dtypes["segments"] = np.dtype("<i4")
            self._dtypes["segment_document_ids"] = np.dtype("<u8")
        self._files = {name: open(self._spool(name), "wb") for name in self._dtypes}

    def _spool(self, name: str) -> Path:
        return self._directory / _SPOOL.format(name)

    def add_block(self, block: RowBlock) -> None:
        """Append rows."""
        mask = block.loss_mask
        self.has_mask |= mask is not None and not bool(mask.all())
        arrays = {
            "input_ids": block.input_ids,
            "loss_mask": np.ones(block.input_ids.shape, np.uint8) if mask is None else mask,
            "segments": block.segment_lengths,
            "segment_document_ids": block.segment_document_ids,
        }
        for name, file in self._files.items():
            file.write(np.ascontiguousarray(arrays[name], self._dtypes[name]).data)
        self._counts.append(np.asarray(block.segment_counts))
        self.num_rows += len(block)

    def close(self) -> None:
        """Write the files."""
        for file in self._files.values():
            file.close()
        width = self.seq_len + 1
        if self._form.name == "megatron":
            ids = np.memmap(self._spool("input_ids"), self._dtypes["input_ids"], "r")
            rows = ids.reshape(-1, width)
            write_megatron(self._directory, iter(rows), self._dtypes["input_ids"])
        else:
            for name in self._dtypes:
                if name != "loss_mask" or self.has_mask:
                    wide = name in ("input_ids", "loss_mask")
                    self._write(name, (self.num_rows, width) if wide else None)
        if self._form.name == "npy":
            counts = np.concatenate(self._counts)
            offsets = np.concatenate([[0], np.cumsum(counts)]).astype("<i8")
            with open_output(str(self._directory / "segment_offsets.npy")) as out:
                out.write(npy_header(offsets.shape, offsets.dtype))
                out.write(offsets.data.cast("B"))
        for name in self._dtypes:
            self._spool(name).unlink()

    def _write(self, name: str, shape: tuple[int, ...] | None) -> None:
        """A spooled array as a file of its own; one dimension where no shape is given."""
        spool, dtype = self._spool(name), self._dtypes[name]
        is_raw = self._form.name == "raw"
        place = self._directory / f"{name}.{'bin' if is_raw else 'npy'}"
        with open_output(str(place), compress=False) as out, open(spool, "rb") as file:
            if not is_raw:
                out.write(npy_header(shape or (spool.stat().st_size // dtype.itemsize,), dtype))
            while block := file.read(READ_BYTES):
                out.write(block)
