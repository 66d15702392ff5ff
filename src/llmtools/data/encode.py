"""Documents to token frames: the whole of `llm tokenize`, and the first half of `llm pack`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmtools import terminal
from llmtools.errors import UsageError
from llmtools.formats.document import Document, document_hash, read_documents
from llmtools.formats.malformed import MalformedRecord, NothingLeft
from llmtools.formats.manifest import Recorder
from llmtools.formats.skips import OnError, Skips, open_skips
from llmtools.formats.token_files import write_token_files
from llmtools.formats.tokens import FrameBuilder, TokenFrame, Vocabulary
from llmtools.tokenizer.tokenizer import Tokenizer

BATCH_DOCUMENTS = 1024
BATCH_CHARS = 1 << 20
# A stretch of one word, as base64, takes 140 bytes of memory a character.
MAX_PIECE_CHARS = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSettings:
    """What stands around a document's own tokens, and where its text is.

    add_bos, add_eos: BOS before, EOS after each document. parse_special: special tokens written out
    in a text are those tokens, not plain text.
    """

    add_bos: bool = False
    add_eos: bool = True
    parse_special: bool = False
    text_key: str = "text"
    id_key: str = "id"


def frame_vocabulary(tokenizer: Tokenizer, settings: EncodeSettings) -> Vocabulary:
    """What the frames of this tokenizer say; raises UsageError for a BOS that does not exist."""
    if settings.add_bos and tokenizer.bos_id is None:
        raise UsageError("--bos: this tokenizer has no BOS token")
    return Vocabulary(
        tokenizer=tokenizer.identity,
        vocab_size=tokenizer.vocab_size,
        bos=tokenizer.bos_id if settings.add_bos else None,
        eos=tokenizer.eos_id if settings.add_eos else None,
    )


def encode_documents(
    documents: Iterable[Document], tokenizer: Tokenizer, settings: EncodeSettings, frame_bytes: int
) -> Iterator[TokenFrame]:
    """Frames of whole documents, each closed when its ids pass `frame_bytes`."""
    vocabulary = frame_vocabulary(tokenizer, settings)
    builder = FrameBuilder(vocabulary)
    before = np.array([i for i in (vocabulary.bos,) if i is not None], np.uint32)
    after = np.array([i for i in (vocabulary.eos,) if i is not None], np.uint32)
    for batch in _batches(documents):
        texts = [document.text for document in batch]
        encoded = tokenizer.encode_batch(texts, parse_special=settings.parse_special)
        for document, ids in zip(batch, encoded, strict=True):
            builder.add(document_hash(document.id), np.concatenate([before, ids, after]))
            if builder.num_bytes >= frame_bytes:
                yield builder.take()
    if builder.num_documents:
        yield builder.take()


def encodable(
    documents: Iterable[Document], tokenizer: Tokenizer, skips: Skips | None
) -> Iterator[Document]:
    """The documents without those that hold a stretch too long to be encoded at once.

    Raises MalformedRecord for those, which `skips` may drop instead.
    """
    for document in documents:
        if len(document.text) > MAX_PIECE_CHARS:
            longest = max(map(len, tokenizer.pieces(document.text)))
            if longest > MAX_PIECE_CHARS:
                reason = (
                    f"{longest:,} characters without a place to cut, of which at most"
                    f" {MAX_PIECE_CHARS:,} can be encoded at once; drop it, or --on-error skip"
                )
                fault = MalformedRecord(document.where, reason, document.raw)
                if skips is None:
                    raise fault
                skips.drop(fault)
                continue
        yield document


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    held: list[Document] = []
    num_chars = 0
    for document in documents:
        held.append(document)
        num_chars += len(document.text)
        if len(held) == BATCH_DOCUMENTS or num_chars >= BATCH_CHARS:
            yield held
            held, num_chars = [], 0
    if held:
        yield held


def tokenize(
    inputs: list[str],
    output: str,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    *,
    rejects: str | None = None,
    on_error: OnError = "fail",
    force: bool = False,
) -> dict[str, Any]:
    """Write the frames of some documents; returns the counts.

    `output` is '-', a file whose name ends in .safetensors (a stream of frames, compressed by a
    further suffix), or else a directory of files with one frame each. Raises InputError for bad
    input and for input without any document.
    """
    recorder = Recorder("tokenize", asdict(settings) | {"tokenizer": tokenizer.identity})
    recorder.read_named(tokenizer.where)
    with open_skips(output, rejects, on_error, force=force) as skips:
        frames = _Frames(inputs, tokenizer, settings, recorder, skips)
        write_token_files(output, frames.read, recorder, force=force)
    return recorder.counts


class _Frames:
    """The frames of a run, counted while they are read."""

    def __init__(
        self,
        inputs: list[str],
        tokenizer: Tokenizer,
        settings: EncodeSettings,
        recorder: Recorder,
        skips: Skips,
    ) -> None:
        self._inputs, self._tokenizer, self._settings = inputs, tokenizer, settings
        self._recorder, self._skips = recorder, skips

    def read(self, frame_bytes: int) -> Iterator[TokenFrame]:
        counts = {"documents": 0, "tokens": 0}
        documents = read_documents(
            self._inputs,
            text_key=self._settings.text_key,
            id_key=self._settings.id_key,
            on_read=self._recorder.read,
            skips=self._skips,
        )
        with terminal.progress("tokenize", unit="tok") as bar:
            found = encodable(documents, self._tokenizer, self._skips)
            for frame in encode_documents(found, self._tokenizer, self._settings, frame_bytes):
                counts["documents"] += frame.num_documents
                counts["tokens"] += len(frame.tokens)
                bar.update(len(frame.tokens))
                yield frame
        if not counts["documents"]:
            raise NothingLeft(
                f"{', '.join(self._inputs)}: no documents in the input{self._skips.explain()}",
                counts | {"documents_skipped": self._skips.count},
            )
        self._recorder.count(**counts)
        self._skips.record(self._recorder)
