"""Documents or token frames to training rows: the whole of `llm pack`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmtools import terminal
from llmtools.data.encode import EncodeSettings, encodable, encode_documents, frame_vocabulary
from llmtools.errors import UsageError
from llmtools.formats.document import stream_documents
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.manifest import Recorder
from llmtools.formats.packed import PADDING_DOCUMENT_ID, PackedRow, PackedWriter
from llmtools.formats.skips import OnError, Skips, open_skips
from llmtools.formats.stream import InputStream, atomic_directory, open_input
from llmtools.formats.tensor_header import is_container
from llmtools.formats.tokens import PIPE_FRAME_BYTES, Agreement, TokenFrame, stream_frames
from llmtools.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSettings:
    """How rows are filled.

    strategy: concat puts documents one after another and cuts them where a row ends, so that only
    the last row is padded.
    """

    seq_len: int
    strategy: Literal["concat"] = "concat"
    encode: EncodeSettings = field(default_factory=EncodeSettings)


class ConcatPacker:
    """Fills rows with documents, one after another; each token goes into exactly one row.

    pad_id: what fills the rest of the last row.
    """

    def __init__(self, writer: PackedWriter, pad_id: int) -> None:
        self._writer = writer
        self._pad_id = pad_id
        self._width = writer.seq_len + 1
        self._open_row()

    def _open_row(self) -> None:
        self._ids = np.empty(self._width, self._writer.vocabulary.dtype)
        self._mask: np.ndarray | None = None
        self._filled = 0
        self._lengths: list[int] = []
        self._document_ids: list[int] = []

    def add(self, document_id: int, tokens: np.ndarray, loss_mask: np.ndarray | None) -> None:
        """Append one document; where it passes a row's end its next part opens the next row."""
        at = 0
        while at < len(tokens):
            count = min(len(tokens) - at, self._width - self._filled)
            part = None if loss_mask is None else loss_mask[at : at + count]
            self._append(document_id, tokens[at : at + count], part)
            at += count

    def _append(self, document_id: int, tokens: np.ndarray, mask: np.ndarray | None) -> None:
        here = slice(self._filled, self._filled + len(tokens))
        self._ids[here] = tokens
        if mask is not None:
            if self._mask is None:
                self._mask = np.ones(self._width, np.uint8)
            self._mask[here] = mask
        self._filled = here.stop
        self._lengths.append(len(tokens))
        self._document_ids.append(document_id)
        if self._filled == self._width:
            self._close_row()

    def _close_row(self) -> None:
        self._writer.add(
            PackedRow(
                input_ids=self._ids,
                segment_lengths=np.array(self._lengths, np.int32),
                segment_document_ids=np.array(self._document_ids, np.uint64),
                loss_mask=self._mask,
            )
        )
        self._open_row()

    def finish(self) -> int:
        """Pad and write the row that is open; returns how many tokens of padding that took."""
        padding = self._width - self._filled if self._filled else 0
        if padding:
            pad = np.full(padding, self._pad_id)
            self._append(PADDING_DOCUMENT_ID, pad, np.zeros(padding, np.uint8))
        return padding


def pack(
    inputs: list[str],
    output: str,
    settings: PackSettings,
    *,
    tokenizer: Tokenizer | None = None,
    rejects: str | None = None,
    on_error: OnError = "fail",
    force: bool = False,
) -> dict[str, Any]:
    """Write a directory of packed shards; returns the counts.

    Each input is documents or token frames, told apart by content. Raises UsageError for documents
    without a tokenizer, InputError for bad input, for tokens of different tokenizers (naming both)
    and for input without any token.
    """
    recorder = Recorder("pack", asdict(settings))
    if tokenizer is not None:
        recorder.read_named(tokenizer.where)
    counts = {"documents": 0, "tokens": 0}
    packer: ConcatPacker | None = None
    writer: PackedWriter | None = None
    with (
        open_skips(output, rejects, on_error, force=force) as skips,
        atomic_directory(output, force=force) as directory,
    ):
        with terminal.progress("pack", unit="tok") as bar:
            for frame in _frames(inputs, tokenizer, settings.encode, recorder, skips):
                if packer is None:
                    writer, packer = _open(directory, settings, frame)
                for document_id, tokens, mask in frame.documents():
                    packer.add(document_id, tokens, mask)
                counts["documents"] += frame.num_documents
                counts["tokens"] += len(frame.tokens)
                bar.update(len(frame.tokens))
        if packer is None or writer is None or not counts["tokens"]:
            raise NothingLeft(f"{', '.join(inputs)}: no tokens in the input{skips.explain()}")
        padding = packer.finish()
        writer.close()
        totals = {"rows": writer.num_rows, **counts, "padding": padding}
        totals |= {"shards": writer.num_shards, "seq_len": settings.seq_len}
        recorder.count(**totals, **asdict(writer.vocabulary))
        skips.record(recorder)
        recorder.wrote_tree(directory)
        recorder.write_beside(directory)
    return totals | {"documents_skipped": skips.count}


def _open(
    directory: Path, settings: PackSettings, frame: TokenFrame
) -> tuple[PackedWriter, ConcatPacker]:
    writer = PackedWriter(directory, seq_len=settings.seq_len, vocabulary=frame.vocabulary)
    return writer, ConcatPacker(writer, frame.vocabulary.eos or 0)


def _frames(
    inputs: list[str],
    tokenizer: Tokenizer | None,
    settings: EncodeSettings,
    recorder: Recorder,
    skips: Skips,
) -> Iterator[TokenFrame]:
    """The frames of all inputs, documents among them encoded on the way."""
    agreement = Agreement()
    if tokenizer is not None:
        agreement.check(frame_vocabulary(tokenizer, settings), tokenizer.where)
    for path in inputs:
        with open_input(path) as stream:
            if is_container(stream.peek(9)):
                for frame in stream_frames(stream):
                    agreement.check(frame.vocabulary, stream.stream_name)
                    yield frame
            else:
                yield from _encoded(stream, tokenizer, settings, agreement, skips)
            recorder.read(stream)


def _encoded(
    stream: InputStream,
    tokenizer: Tokenizer | None,
    settings: EncodeSettings,
    agreement: Agreement,
    skips: Skips,
) -> Iterator[TokenFrame]:
    if tokenizer is None:
        raise UsageError(
            f"{stream.stream_name} holds documents, not token frames; name a tokenizer with -t"
        )
    documents = stream_documents(
        stream, text_key=settings.text_key, id_key=settings.id_key, skips=skips
    )
    documents = encodable(documents, tokenizer, skips)
    for frame in encode_documents(documents, tokenizer, settings, PIPE_FRAME_BYTES):
        agreement.check(frame.vocabulary, stream.stream_name)
        yield frame
