"""What is known of inputs before they are read: sizes, and a sample of the first file."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmtools.formats.content_size import content_size
from llmtools.formats.document import read_documents
from llmtools.formats.input_names import STDIO
from llmtools.formats.output import OutputStream
from llmtools.formats.parquet import is_parquet
from llmtools.formats.skips import OnError, Skips
from llmtools.formats.stream import open_input
from llmtools.formats.tensor_header import is_container, read_header
from llmtools.formats.tokens import MAX_HEADER_BYTES, Agreement, Vocabulary, stream_frames

SAMPLE_BYTES = 1 << 20
# pyarrow and its batches: dedup of the prose corpus, 31 MB, took 180 MB as Parquet and 64 as lines.
PARQUET_BYTES = 115_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes of all inputs, None where one is a pipe.

    content: after decompression, `is_exact` or by the ratios of formats.content_size.
    reader_bytes: memory that reading them takes beside what lines take.
    """

    stored: int | None
    content: int | None
    is_exact: bool
    reader_bytes: int = 0

    @property
    def basis(self) -> str:
        return "input sizes" if self.is_exact else "input sizes and a usual compression ratio"


def measure_inputs(names: Sequence[str]) -> Sizes:
    """The sizes of some inputs; raises InputError for a file that cannot be read."""
    if (found := _given(names)) is not None:
        return Sizes(stored=found.content, content=found.content, is_exact=True)
    if not all(os.path.isfile(name) for name in names):
        return Sizes(stored=None, content=None, is_exact=False)
    stored, content, is_exact, reader_bytes = 0, 0, True, 0
    for name in names:
        size, exact = content_size(name)
        stored += os.path.getsize(name)
        content += size
        is_exact = is_exact and exact
        if is_parquet(name):
            reader_bytes = PARQUET_BYTES
    return Sizes(stored=stored, content=content, is_exact=is_exact, reader_bytes=reader_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The first documents of the first regular file: their lines, ids and texts."""

    raw: list[bytes]
    ids: list[str]
    texts: list[str]

    @property
    def raw_bytes(self) -> int:
        """With line ends, as in a file of documents."""
        return sum(map(len, self.raw)) + len(self.raw)

    @property
    def text_share(self) -> float:
        """UTF-8 bytes of text for each byte of input."""
        return sum(len(text.encode()) for text in self.texts) / max(self.raw_bytes, 1)

    def documents_in(self, content_bytes: int) -> float:
        """How many documents of this size so many bytes hold."""
        return content_bytes / max(self.raw_bytes, 1) * len(self.raw)

    def stored_share(self, output: str) -> float:
        """Bytes stored for each byte written to `output`, whose suffix compresses."""
        suffix = Path(output).suffix
        data = b"\n".join(self.raw)
        stream = OutputStream(output, io.BytesIO(), suffix)
        stream.write(data)
        stream.flush()
        return stream.num_bytes / len(data) if data else 1.0


def sample_documents(
    names: Sequence[str], *, text_key: str, id_key: str = "id", on_error: OnError = "fail"
) -> Sample:
    """Read the first mebibyte; raises as the real run would for what it meets there."""
    if (given := _given(names)) is not None:
        return given.sample
    sample = Sample(raw=[], ids=[], texts=[])
    regular = [name for name in names if os.path.isfile(name)]
    for name in regular[1:]:
        open_input(name).close()
    taken = 0
    for document in read_documents(
        regular[:1], text_key=text_key, id_key=id_key, skips=Skips(on_error)
    ):
        sample.raw.append(document.raw)
        sample.ids.append(document.id)
        sample.texts.append(document.text)
        taken += len(document.raw)
        if taken >= SAMPLE_BYTES:
            break
    return sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """What the headers of token frames say. largest: bytes of the largest frame's ids."""

    vocabulary: Vocabulary
    documents: int
    tokens: int
    largest: int
    has_masks: bool


def holds_frames(name: str) -> bool:
    """Whether a regular file is token frames, not documents."""
    if (given := _given([name])) is not None:
        return given.frames is not None
    if not os.path.isfile(name):
        return False
    with open_input(name) as stream:
        return is_container(stream.peek(9))


def first_vocabulary(name: str) -> Vocabulary:
    """Whose ids the frames of a regular file are; raises InputError where its first is no frame."""
    if (given := _given([name])) is not None and given.frames is not None:
        return given.frames.vocabulary
    with open_input(name) as stream:
        return next(stream_frames(stream)).vocabulary


def measure_frames(names: Sequence[str]) -> Frames | None:
    """Counts from the headers of all frames; None where a file is compressed or a pipe.

    Raises InputError for headers that are malformed or of different tokenizers.
    """
    if (given := _given(names)) is not None:
        return given.frames
    agreement = Agreement()
    documents = tokens = largest = 0
    has_masks = False
    for name in names:
        if not os.path.isfile(name):
            return None
        size = os.path.getsize(name)
        with open(name, "rb") as file:
            if not is_container(file.read(9)):
                return None
            file.seek(0)
            while file.tell() < size:
                header = read_header(file, name, MAX_HEADER_BYTES)
                assert header is not None
                agreement.check(Vocabulary.from_metadata(header.metadata, name), name)
                ids, numbers = header.tensors.get("tokens"), header.tensors.get("document_ids")
                tokens += ids.num_elements if ids else 0
                documents += numbers.num_elements if numbers else 0
                largest = max(largest, ids.stop - ids.start if ids else 0)
                has_masks = has_masks or "loss_mask" in header.tensors
                file.seek(header.data_bytes, os.SEEK_CUR)
    if agreement.vocabulary is None:
        return None
    return Frames(
        vocabulary=agreement.vocabulary,
        documents=documents,
        tokens=tokens,
        largest=largest,
        has_masks=has_masks,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What stdin is taken to hold: bytes, documents like those of a sample, or token frames."""

    content: int
    sample: Sample
    frames: Frames | None = None


_assumed: Assumed | None = None


@contextmanager
def assuming(content: Assumed) -> Iterator[None]:
    """While the block runs plans take '-' for this, the output of a stage that is only planned."""
    global _assumed
    _assumed = content
    try:
        yield
    finally:
        _assumed = None


def _given(names: Sequence[str]) -> Assumed | None:
    return _assumed if list(names) == [STDIO] else None


def is_foreseen(name: str) -> bool:
    """Whether something can be said of an input before it is read."""
    return os.path.isfile(name) or _given([name]) is not None
