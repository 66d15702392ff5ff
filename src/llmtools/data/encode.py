"""Documents to token frames: the whole of `llm tokenize`, and the first half of `llm pack`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmtools import terminal
from llmtools.errors import InputError, UsageError
from llmtools.formats.document import Document, document_hash, read_documents
from llmtools.formats.manifest import Recorder
from llmtools.formats.stream import STDIO, atomic_directory, bare_suffix, open_output
from llmtools.formats.tokens import (
    PIPE_FRAME_BYTES,
    FrameBuilder,
    TokenFrame,
    Vocabulary,
    write_frame,
)
from llmtools.tokenizer.tokenizer import Tokenizer

BATCH_DOCUMENTS = 1024
BATCH_CHARS = 1 << 20
# In a directory every file is one frame, as the plain safetensors library reads it.
FILE_FRAME_BYTES = 64 << 20


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
    force: bool = False,
) -> dict[str, Any]:
    """Write the frames of some documents; returns the counts.

    `output` is '-', a file whose name ends in .safetensors (a stream of frames, compressed by a
    further suffix), or else a directory of files with one frame each. Raises InputError for bad
    input and for input without any document.
    """
    recorder = Recorder("tokenize", asdict(settings) | {"tokenizer": tokenizer.identity})
    counts = {"documents": 0, "tokens": 0}

    def frames(frame_bytes: int) -> Iterator[TokenFrame]:
        documents = read_documents(
            inputs,
            text_key=settings.text_key,
            id_key=settings.id_key,
            on_read=recorder.read,
        )
        with terminal.progress("tokenize", unit="tok") as bar:
            for frame in encode_documents(documents, tokenizer, settings, frame_bytes):
                counts["documents"] += frame.num_documents
                counts["tokens"] += len(frame.tokens)
                bar.update(len(frame.tokens))
                yield frame
        if not counts["documents"]:
            raise InputError(f"{', '.join(inputs)}: no documents in the input")
        recorder.count(**counts)

    if output == STDIO or bare_suffix(output) == ".safetensors":
        with open_output(output, force=force, is_binary=True) as out:
            for frame in frames(PIPE_FRAME_BYTES):
                write_frame(out, frame)
        recorder.wrote(out)
        recorder.write_beside(output)
        return counts
    with atomic_directory(output, force=force) as directory:
        for number, frame in enumerate(frames(FILE_FRAME_BYTES)):
            path = directory / f"tokens-{number:05d}.safetensors"
            with open_output(str(path), compress=False) as out:
                write_frame(out, frame)
        recorder.wrote_tree(directory)
        recorder.write_beside(directory)
    return counts
