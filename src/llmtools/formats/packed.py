"""Packed shards: fixed-length training rows and the documents each row is made of.

A directory of `train-00000.safetensors`, `train-00001.safetensors`, ... each with

    input_ids             uint16 / uint32 [N, seq_len + 1]; the label of a column is the next column
    segments              int32; the segment lengths of all rows, one after another
    segment_offsets       int64 [N + 1]; row n has segments from offset n to offset n + 1
    segment_document_ids  uint64, one per segment
    loss_mask             uint8 [N, seq_len + 1], optional; 1 where a token counts as a target
    __metadata__          format, tokenizer, vocab_size, bos, eos, seq_len

Rows do not overlap. A row's segment lengths add up to seq_len + 1; attention and labels never cross
a segment's end. Padding, where any, is a row's last segment, with loss_mask 0 and document id 0.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from llmtools.errors import InputError
from llmtools.formats import tensor_header
from llmtools.formats.output import open_output
from llmtools.formats.tokens import Agreement, Vocabulary, check_offsets, read_count, typed_view

FORMAT = "llmtools/packed@1"
PATTERN = "train-*.safetensors"
SHARD_BYTES = 128 << 20
PADDING_DOCUMENT_ID = 0
_DTYPES: dict[str, np.dtype[Any]] = {
    "segments": np.dtype("<i4"),
    "segment_offsets": np.dtype("<i8"),
    "segment_document_ids": np.dtype("<u8"),
    "loss_mask": np.dtype("<u1"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRow:
    """One training row.

    input_ids: [seq_len + 1]. segment_lengths: int32 [k], each > 0, adding up to seq_len + 1.
    segment_document_ids: uint64 [k]. loss_mask: uint8 [seq_len + 1], None where all tokens count.
    """

    input_ids: np.ndarray
    segment_lengths: np.ndarray
    segment_document_ids: np.ndarray
    loss_mask: np.ndarray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBlock:
    """Some training rows, as arrays.

    input_ids: [N, seq_len + 1]. segment_counts: int64 [N], how many segments each row has.
    segment_lengths and segment_document_ids: of all rows, one after another. loss_mask:
    uint8 [N, seq_len + 1], None where all tokens count.
    """

    input_ids: np.ndarray
    segment_counts: np.ndarray
    segment_lengths: np.ndarray
    segment_document_ids: np.ndarray
    loss_mask: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    def split(self, at: int) -> tuple[RowBlock, RowBlock]:
        """The first `at` rows, and the others; both share memory with this block."""
        segments = int(self.segment_counts[:at].sum())
        parts = [
            RowBlock(
                input_ids=self.input_ids[rows],
                segment_counts=self.segment_counts[rows],
                segment_lengths=self.segment_lengths[own],
                segment_document_ids=self.segment_document_ids[own],
                loss_mask=None if self.loss_mask is None else self.loss_mask[rows],
            )
            for rows, own in (
                (slice(None, at), slice(None, segments)),
                (slice(at, None), slice(segments, None)),
            )
        ]
        return parts[0], parts[1]


class PackedWriter:
    """Writes rows as shards into a directory; a shard's rows are in memory until it is full."""

    def __init__(
        self,
        directory: Path,
        *,
        seq_len: int,
        vocabulary: Vocabulary,
        rows_per_shard: int | None = None,
    ) -> None:
        row_bytes = (seq_len + 1) * vocabulary.dtype.itemsize
        self._directory = directory
        self.seq_len = seq_len
        self.vocabulary = vocabulary
        self.rows_per_shard = rows_per_shard or max(1, SHARD_BYTES // row_bytes)
        self.num_rows = 0
        self.num_shards = 0
        self._blocks: list[RowBlock] = []
        self._held = 0

    def add(self, row: PackedRow) -> None:
        """Append one row."""
        assert len(row.input_ids) == self.seq_len + 1 == int(row.segment_lengths.sum())
        self.add_block(
            RowBlock(
                input_ids=row.input_ids[None],
                segment_counts=np.array([len(row.segment_lengths)], np.int64),
                segment_lengths=row.segment_lengths,
                segment_document_ids=row.segment_document_ids,
                loss_mask=None if row.loss_mask is None else row.loss_mask[None],
            )
        )

    def add_block(self, block: RowBlock) -> None:
        """Append some rows; their arrays must stay as they are until the writer is closed."""
        assert block.input_ids.shape == (len(block), self.seq_len + 1)
        assert len(block.segment_lengths) == len(block.segment_document_ids)
        self.num_rows += len(block)
        while self._held + len(block) >= self.rows_per_shard:
            first, block = block.split(self.rows_per_shard - self._held)
            self._blocks.append(first)
            self._write_shard()
        if len(block):
            self._blocks.append(block)
            self._held += len(block)

    def close(self) -> None:
        """Write the last, partial shard."""
        if self._blocks:
            self._write_shard()

    def _write_shard(self) -> None:
        blocks = self._blocks
        counts = [np.zeros(1, np.int64), *(block.segment_counts for block in blocks)]
        arrays: dict[str, list[np.ndarray]] = {
            "input_ids": [block.input_ids for block in blocks],
            "segments": [block.segment_lengths for block in blocks],
            "segment_offsets": [np.cumsum(np.concatenate(counts), dtype=np.int64)],
            "segment_document_ids": [block.segment_document_ids for block in blocks],
        }
        if any(block.loss_mask is not None for block in blocks):
            ones = np.ones((1, self.seq_len + 1), np.uint8)
            arrays["loss_mask"] = [
                np.broadcast_to(ones, block.input_ids.shape)
                if block.loss_mask is None
                else block.loss_mask
                for block in blocks
            ]
        metadata = {
            "format": FORMAT,
            "seq_len": str(self.seq_len),
            **self.vocabulary.as_metadata(),
        }
        dtypes: dict[str, np.dtype[Any]] = {"input_ids": self.vocabulary.dtype, **_DTYPES}
        path = self._directory / f"train-{self.num_shards:05d}.safetensors"
        with open_output(str(path), compress=False) as out:
            for piece in tensor_header.dump_parts(arrays, dtypes, metadata):
                out.write(piece)
        self._blocks, self._held = [], 0
        self.num_shards += 1


class _Shard:
    """One memory-mapped shard, its header checked against its size."""

    def __init__(self, path: Path) -> None:
        where = str(path)
        try:
            with open(path, "rb") as file:
                header = tensor_header.read_header(file, where)
        except OSError as fault:
            raise InputError(f"{path}: {fault.strerror or fault}") from fault
        if header is None or not header.data_bytes or header.metadata.get("format") != FORMAT:
            raise InputError(f"{path}: not a packed shard (llm pack writes them)")
        size, expected = path.stat().st_size, header.data_start + header.data_bytes
        if size != expected:
            raise InputError(f"{path}: {size} bytes where its header announces {expected}")
        self.path = path
        self.vocabulary = Vocabulary.from_metadata(header.metadata, where)
        data = np.memmap(path, np.uint8, mode="r", offset=header.data_start)
        self.input_ids = typed_view(header, data, "input_ids", ("U16", "U32"), 2, where)
        self.segments = typed_view(header, data, "segments", ("I32",), 1, where)
        self.segment_offsets = typed_view(header, data, "segment_offsets", ("I64",), 1, where)
        self.document_ids = typed_view(header, data, "segment_document_ids", ("U64",), 1, where)
        self.loss_mask = None
        if "loss_mask" in header.tensors:
            self.loss_mask = typed_view(header, data, "loss_mask", ("U8",), 2, where)
            if self.loss_mask.shape != self.input_ids.shape:
                raise InputError(f"{path}: loss_mask and input_ids differ in shape")
        num_rows, width = self.input_ids.shape
        self.seq_len = int(width) - 1
        if self.seq_len < 1 or read_count(header.metadata, "seq_len", where) != self.seq_len:
            raise InputError(f"{path}: input_ids has {width} columns, which is not seq_len + 1")
        if len(self.document_ids) != len(self.segments):
            raise InputError(f"{path}: segments and segment_document_ids differ in length")
        what = f"{path}: segment_offsets"
        check_offsets(self.segment_offsets, num_rows, len(self.segments), what)

    def row(self, at: int) -> PackedRow:
        begin, end = int(self.segment_offsets[at]), int(self.segment_offsets[at + 1])
        ids, lengths = self.input_ids[at], self.segments[begin:end]
        if int(lengths.min(initial=1)) < 1 or int(lengths.sum(dtype=np.int64)) != len(ids):
            raise InputError(f"{self.path}: row {at}: its segments do not add up to {len(ids)}")
        if int(ids.max()) >= self.vocabulary.vocab_size:
            raise InputError(
                f"{self.path}: row {at}: token id {int(ids.max())} in a vocabulary of"
                f" {self.vocabulary.vocab_size}"
            )
        return PackedRow(
            input_ids=ids,
            segment_lengths=lengths,
            segment_document_ids=self.document_ids[begin:end],
            loss_mask=None if self.loss_mask is None else self.loss_mask[at],
        )


class PackedDataset:
    """The rows of a packed directory, read by memory map; arrays are read-only views.

    Raises InputError when there is no shard, a shard is malformed, or shards disagree on seq_len or
    tokenizer. Headers and offsets are checked on opening, each row when it is read.
    """

    def __init__(self, path: str | Path) -> None:
        directory = Path(path)
        files = sorted(directory.glob(PATTERN))
        if not files:
            raise InputError(f"{path}: no {PATTERN} in this directory (llm pack writes them)")
        self.path = directory
        self._shards = [_Shard(file) for file in files]
        first = self._shards[0]
        agreement = Agreement()
        for shard in self._shards:
            agreement.check(shard.vocabulary, str(shard.path))
            if shard.seq_len != first.seq_len:
                raise InputError(
                    f"{shard.path} has rows of seq_len {shard.seq_len} but {first.path} of"
                    f" {first.seq_len}; pack one of them again"
                )
        self._ends: list[int] = list(accumulate(len(shard.input_ids) for shard in self._shards))
        self.vocabulary = first.vocabulary
        self.seq_len: int = first.seq_len

    @property
    def num_rows(self) -> int:
        return self._ends[-1]

    @property
    def vocab_size(self) -> int:
        return self.vocabulary.vocab_size

    @property
    def tokenizer(self) -> str:
        """Identity of the tokenizer that made the ids."""
        return self.vocabulary.tokenizer

    @property
    def num_tokens(self) -> int:
        """Tokens in all rows, padding included."""
        return self.num_rows * (self.seq_len + 1)

    def __len__(self) -> int:
        return self.num_rows

    def rows_of(self, document_id: int) -> tuple[np.ndarray, int]:
        """The rows that hold a document (int64, rising), and how many of its tokens they hold."""
        found, num_tokens, before = [np.empty(0, np.int64)], 0, 0
        for shard in self._shards:
            segments = np.flatnonzero(shard.document_ids == np.uint64(document_id))
            rows = np.searchsorted(shard.segment_offsets, segments, side="right") - 1
            found.append(before + np.unique(rows))
            num_tokens += int(shard.segments[segments].sum(dtype=np.int64))
            before += len(shard.input_ids)
        return np.concatenate(found), num_tokens

    def segments(self) -> tuple[np.ndarray, np.ndarray]:
        """Document id (uint64) and length (int32) of every segment, in order."""
        ids = np.concatenate([shard.document_ids for shard in self._shards])
        return ids, np.concatenate([shard.segments for shard in self._shards])

    def row(self, index: int) -> PackedRow:
        """Row `index`, 0 <= index < num_rows."""
        if not 0 <= index < self.num_rows:
            raise IndexError(f"row {index} of {self.num_rows}")
        at = bisect_right(self._ends, index)
        before = self._ends[at - 1] if at else 0
        return self._shards[at].row(index - before)
