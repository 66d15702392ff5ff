"""Token frames: documents as token ids, in files and through pipes.

A stream is a sequence of safetensors containers, each a frame of whole documents:

    tokens        uint16 where the vocabulary fits, else uint32; [T]
    offsets       int64 [D + 1]; document d is tokens[offsets[d] : offsets[d + 1]]
    document_ids  uint64 [D]; formats.record.document_hash of the document's id
    loss_mask     uint8 [T], optional; 1 where a token counts as a training target
    __metadata__  format, tokenizer (identity), vocab_size, bos, eos

A frame states its own length, so `cat a b` is a valid stream. All frames of a stream come from one
tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from llmtools.errors import InputError
from llmtools.formats import tensor_header
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.output import OutputStream
from llmtools.formats.stream import InputStream, open_input

FORMAT = "llmtools/tokens@1"
MAX_HEADER_BYTES = 1 << 20
# Small enough that the next command of a pipe starts soon, large enough that frames cost nothing.
PIPE_FRAME_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Whose ids these are.

    tokenizer: identity, a hash of the tokenizer's content. bos, eos: the id that stands before and
    after each document, None where none was added.
    """

    tokenizer: str
    vocab_size: int
    bos: int | None = None
    eos: int | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest dtype that holds every id."""
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    def as_metadata(self) -> dict[str, str]:
        fields = {"tokenizer": self.tokenizer, "vocab_size": str(self.vocab_size)}
        fields |= {k: str(v) for k, v in (("bos", self.bos), ("eos", self.eos)) if v is not None}
        return fields

    @staticmethod
    def from_metadata(metadata: dict[str, str], where: str) -> Vocabulary:
        """Raises InputError for a field that is absent or not a count."""
        if not metadata.get("tokenizer"):
            raise InputError(f"{where}: the header names no tokenizer")
        size = read_count(metadata, "vocab_size", where)
        if size is None or not 0 < size <= 1 << 32:
            raise InputError(f"{where}: header field vocab_size is {size}; it must be 1 to 2^32")
        bos, eos = read_count(metadata, "bos", where), read_count(metadata, "eos", where)
        for name, value in (("bos", bos), ("eos", eos)):
            if value is not None and value >= size:
                raise InputError(f"{where}: {name} is {value}, the vocabulary has {size} ids")
        return Vocabulary(tokenizer=metadata["tokenizer"], vocab_size=size, bos=bos, eos=eos)


def read_count(metadata: dict[str, str], key: str, where: str) -> int | None:
    """A non-negative integer of a header's metadata, None where absent."""
    text = metadata.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InputError(f"{where}: header field {key} is {text!r}, not a count")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFrame:
    """Some whole documents as tokens; see the module's head for the arrays."""

    vocabulary: Vocabulary
    tokens: np.ndarray
    offsets: np.ndarray
    document_ids: np.ndarray
    loss_mask: np.ndarray | None = None

    @property
    def num_documents(self) -> int:
        return len(self.document_ids)

    def documents(self) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
        """(document id, tokens, loss mask) of each document."""
        bounds = self.offsets.tolist()
        for at, document_id in enumerate(self.document_ids.tolist()):
            here = slice(bounds[at], bounds[at + 1])
            yield (
                document_id,
                self.tokens[here],
                None if self.loss_mask is None else self.loss_mask[here],
            )

    def part(self, begin: int, end: int) -> TokenFrame:
        """The documents from `begin` to before `end`; shares memory with this frame."""
        first, last = int(self.offsets[begin]), int(self.offsets[end])
        return TokenFrame(
            vocabulary=self.vocabulary,
            tokens=self.tokens[first:last],
            offsets=self.offsets[begin : end + 1] - first,
            document_ids=self.document_ids[begin:end],
            loss_mask=None if self.loss_mask is None else self.loss_mask[first:last],
        )


def join_frames(frames: Sequence[TokenFrame]) -> TokenFrame:
    """All documents of some frames of one tokenizer as one; a mask where any of them has one."""
    vocabulary = frames[0].vocabulary
    before = np.cumsum([0, *(len(frame.tokens) for frame in frames)])
    mask = None
    if any(frame.loss_mask is not None for frame in frames):
        mask = np.concatenate(
            [
                np.ones(len(frame.tokens), np.uint8) if frame.loss_mask is None else frame.loss_mask
                for frame in frames
            ]
        )
    return TokenFrame(
        vocabulary=vocabulary,
        tokens=np.concatenate([frame.tokens for frame in frames]).astype(
            vocabulary.dtype, copy=False
        ),
        offsets=np.concatenate(
            [
                np.zeros(1, np.int64),
                *(
                    frame.offsets[1:] + at
                    for frame, at in zip(frames, before[:-1].tolist(), strict=True)
                ),
            ]
        ),
        document_ids=np.concatenate([frame.document_ids for frame in frames]),
        loss_mask=mask,
    )


class FrameBuilder:
    """Collects documents into a frame."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._clear()

    def _clear(self) -> None:
        self._parts: list[np.ndarray] = []
        self._masks: list[np.ndarray | None] = []
        self._document_ids: list[int] = []
        self.num_tokens = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of token ids collected."""
        return self.num_tokens * self.vocabulary.dtype.itemsize

    @property
    def num_documents(self) -> int:
        return len(self._document_ids)

    def add(
        self, document_id: int, tokens: np.ndarray, loss_mask: np.ndarray | None = None
    ) -> None:
        """Append one document; ids must be below the vocabulary's size and not change any more."""
        self._parts.append(tokens)
        self._masks.append(loss_mask)
        self._document_ids.append(document_id)
        self.num_tokens += len(tokens)

    def take(self) -> TokenFrame:
        """The frame of what was added since the last call; documents without a mask count fully."""
        lengths = np.array([0, *map(len, self._parts)], np.int64)
        mask = None
        if any(m is not None for m in self._masks):
            mask = np.concatenate(
                [
                    np.ones(len(part), np.uint8) if own is None else own.astype(np.uint8)
                    for part, own in zip(self._parts, self._masks, strict=True)
                ]
            )
        frame = TokenFrame(
            vocabulary=self.vocabulary,
            tokens=np.concatenate(
                [np.zeros(0, np.uint16), *self._parts],
                dtype=self.vocabulary.dtype,
                casting="unsafe",
            ),
            offsets=np.cumsum(lengths),
            document_ids=np.array(self._document_ids, np.uint64),
            loss_mask=mask,
        )
        self._clear()
        return frame


def write_frame(out: OutputStream, frame: TokenFrame) -> None:
    """Append one frame to a stream and hand it on at once."""
    arrays = {
        "tokens": frame.tokens.astype(frame.vocabulary.dtype, copy=False),
        "offsets": frame.offsets.astype(np.int64, copy=False),
        "document_ids": frame.document_ids.astype(np.uint64, copy=False),
    }
    if frame.loss_mask is not None:
        arrays["loss_mask"] = frame.loss_mask.astype(np.uint8, copy=False)
    metadata = {"format": FORMAT, **frame.vocabulary.as_metadata()}
    for piece in tensor_header.dump(arrays, metadata):
        out.write(piece)
    out.flush()


def stream_frames(stream: InputStream) -> Iterator[TokenFrame]:
    """The frames of an open stream; raises InputError that names the frame for anything wrong."""
    number = 0
    while True:
        where = f"{stream.stream_name}: frame {number}"
        source = cast(Any, stream)
        header = tensor_header.read_header(source, where, MAX_HEADER_BYTES)
        if header is None:
            if number == 0:
                raise NothingLeft(f"{stream.stream_name}: empty; token frames were expected")
            return
        yield _frame(header, tensor_header.read_exactly(source, header.data_bytes, where), where)
        number += 1


def read_frames(
    inputs: Iterable[str], on_read: Callable[[InputStream], None] | None = None
) -> Iterator[TokenFrame]:
    """The frames of some files, in order, all of one tokenizer.

    `on_read` is called with each stream after its last frame. Raises InputError for malformed
    frames, and for a frame of another tokenizer, naming both.
    """
    agreement = Agreement()
    for path in inputs:
        with open_input(path) as stream:
            for frame in stream_frames(stream):
                agreement.check(frame.vocabulary, stream.stream_name)
                yield frame
            if on_read is not None:
                on_read(stream)


def reframe(frames: Iterable[TokenFrame], frame_bytes: int) -> Iterator[TokenFrame]:
    """The same documents in frames closed when their ids pass `frame_bytes`."""
    builder: FrameBuilder | None = None
    for frame in frames:
        builder = builder or FrameBuilder(frame.vocabulary)
        for document_id, tokens, mask in frame.documents():
            builder.add(document_id, tokens, mask)
            if builder.num_bytes >= frame_bytes:
                yield builder.take()
    if builder is not None and builder.num_documents:
        yield builder.take()


class Agreement:
    """Holds every source of tokens to the tokenizer of the first one."""

    def __init__(self) -> None:
        self.vocabulary: Vocabulary | None = None
        self._source = ""

    def check(self, vocabulary: Vocabulary, source: str) -> None:
        """Raises InputError when `source` comes from another tokenizer, naming both."""
        if self.vocabulary is None:
            self.vocabulary, self._source = vocabulary, source
        elif vocabulary.tokenizer != self.vocabulary.tokenizer:
            first = self.vocabulary
            raise InputError(
                f"{source} was tokenized by {vocabulary.tokenizer} ({vocabulary.vocab_size} ids)"
                f" but {self._source} by {first.tokenizer} ({first.vocab_size} ids);"
                " tokenize one of them again (llm inspect FILE shows the header)"
            )


def _frame(header: tensor_header.Header, data: bytes, where: str) -> TokenFrame:
    if header.metadata.get("format") != FORMAT:
        raise InputError(
            f"{where}: not token frames: header field format is"
            f" {header.metadata.get('format')!r}, not {FORMAT!r}"
        )
    vocabulary = Vocabulary.from_metadata(header.metadata, where)
    tokens = typed_view(header, data, "tokens", ("U16", "U32"), 1, where)
    offsets = typed_view(header, data, "offsets", ("I64",), 1, where)
    document_ids = typed_view(header, data, "document_ids", ("U64",), 1, where)
    mask = None
    if "loss_mask" in header.tensors:
        mask = typed_view(header, data, "loss_mask", ("U8",), 1, where)
        if mask.shape != tokens.shape:
            raise InputError(f"{where}: {len(mask)} loss_mask values for {len(tokens)} tokens")
        if len(mask) and int(mask.max()) > 1:
            raise InputError(
                f"{where}: loss_mask holds {int(mask.max())}; only 0 and 1 mean something"
            )
    check_offsets(offsets, len(document_ids), len(tokens), f"{where}: offsets")
    if len(tokens) and int(tokens.max()) >= vocabulary.vocab_size:
        raise InputError(
            f"{where}: token id {int(tokens.max())} in a vocabulary of {vocabulary.vocab_size}"
        )
    return TokenFrame(
        vocabulary=vocabulary,
        tokens=tokens,
        offsets=offsets,
        document_ids=document_ids,
        loss_mask=mask,
    )


def typed_view(
    header: tensor_header.Header,
    data: Any,
    name: str,
    dtypes: tuple[str, ...],
    num_dims: int,
    where: str,
) -> np.ndarray:
    """A tensor that must exist with one of these dtypes; raises InputError otherwise."""
    entry = header.tensors.get(name)
    if entry is None:
        raise InputError(f"{where}: no tensor {name!r}")
    if entry.dtype not in dtypes or len(entry.shape) != num_dims:
        raise InputError(
            f"{where}: tensor {name!r} is {entry.dtype} {list(entry.shape)},"
            f" not {' or '.join(dtypes)} with {num_dims} dimensions"
        )
    return tensor_header.view(entry, data)


def check_offsets(offsets: np.ndarray, count: int, total: int, what: str) -> None:
    """`offsets` must cut 0..total into `count` pieces; raises InputError otherwise."""
    if len(offsets) != count + 1:
        raise InputError(f"{what}: {len(offsets)} values where {count} pieces need {count + 1}")
    if offsets[0] != 0 or offsets[-1] != total or bool((offsets[1:] < offsets[:-1]).any()):
        raise InputError(f"{what}: must rise from 0 to {total}")
