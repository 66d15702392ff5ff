"""Filling rows: documents end to end, by best fit, or by best fit with a BOS before each row.

A packer takes frames in order, gives blocks of rows, and counts what it padded, cropped and cut.
Its rows depend on the documents and their order alone, not on how they come in frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from llmtools.errors import InputError
from llmtools.formats.packed import PADDING_DOCUMENT_ID, RowBlock
from llmtools.formats.tokens import TokenFrame, join_frames

LongDocuments = Literal["fragment", "truncate"]
Integers = npt.NDArray[np.int64]
# Documents are laid out so many tokens at a time; fewer would cost a call of numpy for each.
LEAST_TOKENS = 1 << 20


class Packer(Protocol):
    """padding: tokens that are none of a document's. cropped: tokens left out. cuts: documents'
    ends of parts, where the document would have gone on."""

    padding: int
    cropped: int
    cuts: int

    def add(self, frame: TokenFrame) -> Iterator[RowBlock]:
        """The rows that are complete once these documents are there."""

    def finish(self) -> Iterator[RowBlock]:
        """The rows that remain."""


class Concat:
    """Documents one after another, cut where a row is full; the last row is padded."""

    def __init__(self, width: int, pad_id: int) -> None:
        self._width, self._pad_id = width, pad_id
        self._frames: list[TokenFrame] = []
        self._held = 0
        self.padding = self.cropped = self.cuts = 0

    def add(self, frame: TokenFrame) -> Iterator[RowBlock]:
        self._frames.append(frame)
        self._held += len(frame.tokens)
        if self._held >= max(LEAST_TOKENS, self._width):
            yield self._take(self._held // self._width)

    def finish(self) -> Iterator[RowBlock]:
        if not self._held:
            return
        padding = -self._held % self._width
        if padding:
            last = self._frames[-1]
            # Always with a mask, so that the block of the last row has one.
            self._frames.append(
                TokenFrame(
                    vocabulary=last.vocabulary,
                    tokens=np.full(padding, self._pad_id, last.vocabulary.dtype),
                    offsets=np.array([0, padding], np.int64),
                    document_ids=np.array([PADDING_DOCUMENT_ID], np.uint64),
                    loss_mask=np.zeros(padding, np.uint8),
                )
            )
            self._held += padding
            self.padding += padding
        yield self._take(self._held // self._width)

    def _take(self, rows: int) -> RowBlock:
        """The first rows of what is held; the rest is held on, as parts of documents."""
        frame = join_frames(self._frames)
        width, stop = self._width, rows * self._width
        ends = frame.offsets[1:]
        row_ends = np.arange(width, stop + 1, width)
        segment_ends = np.union1d(ends[(ends > 0) & (ends < stop)], row_ends)
        # Where documents are empty several end at the same place; the first of them has the tokens.
        owners = frame.document_ids[np.searchsorted(ends, segment_ends)]
        counts = np.diff(np.searchsorted(segment_ends, row_ends, side="right"), prepend=0)
        self.cuts += int((~np.isin(row_ends, ends)).sum())
        rest = np.searchsorted(ends, stop, side="right")
        self._frames = [
            TokenFrame(
                vocabulary=frame.vocabulary,
                tokens=frame.tokens[stop:],
                offsets=np.concatenate([[0], ends[rest:] - stop]),
                document_ids=frame.document_ids[rest:],
                loss_mask=None if frame.loss_mask is None else frame.loss_mask[stop:],
            )
        ]
        self._held -= stop
        mask = None if frame.loss_mask is None else frame.loss_mask[:stop].reshape(rows, width)
        return RowBlock(
            input_ids=frame.tokens[:stop].reshape(rows, width),
            segment_counts=counts,
            segment_lengths=np.diff(segment_ends, prepend=0),
            segment_document_ids=owners,
            loss_mask=mask,
        )


class BestFit:
    """Best-fit decreasing over `buffer` tokens of documents at a time (Ding et al. 2024).

    Documents longer than a row are cut first: into parts of a row and a rest with `fragment`, or
    after one row with `truncate`. The longest part goes first, into the row with the least room
    that holds it. Rows and the parts in them then stand in the order of their documents.
    """

    def __init__(self, width: int, pad_id: int, buffer: int, long_docs: LongDocuments) -> None:
        self._width, self._pad_id, self._buffer = width, pad_id, buffer
        self._fragments = long_docs == "fragment"
        self._frames: list[TokenFrame] = []
        self._held = 0
        self.padding = self.cropped = self.cuts = 0

    def add(self, frame: TokenFrame) -> Iterator[RowBlock]:
        self._frames.append(frame)
        self._held += len(frame.tokens)
        if self._held <= self._buffer:
            return
        joined = join_frames(self._frames)
        at, offsets = 0, joined.offsets
        while offsets[-1] - offsets[at] > self._buffer:
            # As many documents as the buffer holds, and one where that is none.
            fitting = int(np.searchsorted(offsets, offsets[at] + self._buffer, side="right")) - 1
            end = max(fitting, at + 1)
            yield from self._rows(joined.part(at, end))
            at = end
        rest = joined.part(at, joined.num_documents)
        self._frames, self._held = [rest], len(rest.tokens)

    def finish(self) -> Iterator[RowBlock]:
        if self._held:
            yield from self._rows(join_frames(self._frames))

    def _rows(self, frame: TokenFrame) -> Iterator[RowBlock]:
        from llmtools.data.pack_kernels import best_fit

        whole = np.diff(frame.offsets)
        width = self._width
        parts = -(-whole // width) if self._fragments else np.minimum(whole, 1)
        document = np.repeat(np.arange(len(whole)), parts)
        if not len(document):
            return
        number = np.arange(len(document)) - np.repeat(np.cumsum(parts) - parts, parts)
        lengths = np.minimum(whole[document] - number * width, width)
        self.cropped += int(whole.sum() - lengths.sum())
        self.cuts += int((parts - 1).clip(0).sum())
        self.cuts += 0 if self._fragments else int((whole > width).sum())
        order = np.argsort(-lengths, kind="stable")
        pieces, counts = best_fit(lengths, order, width)
        block, padding = _lay_out(
            frame,
            document[pieces],
            number[pieces] * width,
            lengths[pieces],
            counts,
            width,
            self._pad_id,
        )
        self.padding += padding
        yield block


class BosBestFit:
    """Every row begins with a document's BOS and is filled to its end, as nanochat's loader does.

    Of at least `buffer` tokens of documents the longest that fits comes next; where none fits, the
    shortest is cropped to the room that is left, and its rest is lost. A document longer than a row
    is cropped to a row before. Only the last row can be padded.
    """

    def __init__(self, width: int, pad_id: int, buffer: int) -> None:
        self._width, self._pad_id, self._buffer = width, pad_id, buffer
        self._frames: list[TokenFrame] = []
        self._held = 0
        self.padding = self.cropped = self.cuts = 0

    def add(self, frame: TokenFrame) -> Iterator[RowBlock]:
        bos = frame.vocabulary.bos
        starts = frame.offsets[:-1][np.diff(frame.offsets) > 0]
        wrong = np.flatnonzero(frame.tokens[starts] != bos)
        if len(wrong):
            raise InputError(
                f"a document begins with token {int(frame.tokens[starts[wrong[0]]])}, not with BOS"
                f" ({bos}) as its frame says; tokenize it again with --bos"
            )
        self._frames.append(frame)
        self._held += len(frame.tokens)
        if self._held >= 2 * self._buffer + 4 * self._width:
            yield from self._rows(is_final=False)

    def finish(self) -> Iterator[RowBlock]:
        if self._held:
            yield from self._rows(is_final=True)

    def _rows(self, *, is_final: bool) -> Iterator[RowBlock]:
        from llmtools.data.pack_kernels import bos_best_fit, take_documents

        frame = join_frames(self._frames)
        whole = np.diff(frame.offsets)
        named = np.flatnonzero(whole)
        lengths = np.minimum(whole[named], self._width)
        placed, kept, counts = bos_best_fit(lengths, self._width, self._buffer, is_final)
        documents = named[placed]
        left = np.ones(len(whole), np.bool_)
        left[documents] = False
        lost = whole[documents] - kept
        self.cropped += int(lost.sum())
        self.cuts += int((lost > 0).sum())
        rest = take_documents(frame, np.flatnonzero(left))
        self._frames, self._held = [rest], len(rest.tokens)
        if len(counts):
            starts = np.zeros(len(placed), np.int64)
            block, padding = _lay_out(
                frame, documents, starts, kept, counts, self._width, self._pad_id
            )
            self.padding += padding
            yield block


def _lay_out(
    frame: TokenFrame,
    documents: Integers,
    starts: Integers,
    lengths: Integers,
    counts: Integers,
    width: int,
    pad_id: int,
) -> tuple[RowBlock, int]:
    """Rows of parts of documents, and how many tokens of padding they took.

    documents, starts, lengths: int64 [parts], row by row: `length` tokens of a document from its
    token `start`. counts: int64 [rows], how many parts each row has.
    """
    from llmtools.data.pack_kernels import copy_items

    num_rows = len(counts)
    part_ends = np.cumsum(lengths)
    row_ends = np.cumsum(counts)
    filled = np.diff(part_ends[row_ends - 1], prepend=0)
    # Rows that are full would lie where the parts do, one after another; each is moved by the room
    # left in those before it.
    room = width - filled
    places = part_ends - lengths + np.repeat(np.cumsum(room) - room, counts)
    sources = frame.offsets[documents] + starts
    ids = np.full((num_rows, width), pad_id, frame.tokens.dtype)
    copy_items(frame.tokens, sources, lengths, places, ids)
    is_padded = room > 0
    mask = None
    if frame.loss_mask is not None:
        mask = np.zeros((num_rows, width), np.uint8)
        copy_items(frame.loss_mask, sources, lengths, places, mask)
    elif is_padded.any():
        mask = (np.arange(width) < filled[:, None]).astype(np.uint8)
    at = row_ends[is_padded]
    block = RowBlock(
        input_ids=ids,
        segment_counts=counts + is_padded,
        segment_lengths=np.insert(lengths, at, room[is_padded]),
        segment_document_ids=np.insert(
            frame.document_ids[documents], at, np.uint64(PADDING_DOCUMENT_ID)
        ),
        loss_mask=mask,
    )
    return block, int(room.sum())
