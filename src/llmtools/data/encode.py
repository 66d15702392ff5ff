"""Documents to token frames: the whole of `llm tokenize`, and the first half of `llm pack`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson

from llmtools import terminal
from llmtools.errors import InputError, UsageError
from llmtools.formats.document import read_documents
from llmtools.formats.input_names import STDIO
from llmtools.formats.malformed import MalformedRecord, NothingLeft
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import open_output
from llmtools.formats.record import Document, document_hash
from llmtools.formats.skips import OnError, Skips, open_skips
from llmtools.formats.stream import COMPRESSED, names_of, peek_stdin, standing_in
from llmtools.formats.token_files import write_token_files
from llmtools.formats.token_forms import TokenForm
from llmtools.formats.tokens import FrameBuilder, TokenFrame, Vocabulary
from llmtools.tokenizer.tokenizer import Tokenizer

BATCH_DOCUMENTS = 1024
BATCH_CHARS = 1 << 20
# A stretch of one word, as base64, takes 140 bytes of memory a character.
MAX_PIECE_CHARS = 8 << 20
# Tokens between two steps of the progress bar.
SHOWN_TOKENS = 1 << 16
FRAMES = TokenForm()


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSettings:
    """What stands around a document's own tokens, and where its text is.

    add_bos, add_eos: BOS before, EOS after each document. parse_special: special tokens written out
    in a text are those tokens, not plain text. check: how many of the first documents are also
    encoded whole by the reference and compared.
    """

    add_bos: bool = False
    add_eos: bool = True
    parse_special: bool = False
    text_key: str = "text"
    id_key: str = "id"
    check: int = 0


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
    encoded = encode_each(documents, tokenizer, settings)
    return _framed(encoded, frame_vocabulary(tokenizer, settings), frame_bytes)


def _framed(
    encoded: Iterable[tuple[Document, np.ndarray]], vocabulary: Vocabulary, frame_bytes: int
) -> Iterator[TokenFrame]:
    builder = FrameBuilder(vocabulary)
    for document, ids in encoded:
        builder.add(document_hash(document.id), ids)
        if builder.num_bytes >= frame_bytes:
            yield builder.take()
    if builder.num_documents:
        yield builder.take()


def encode_each(
    documents: Iterable[Document], tokenizer: Tokenizer, settings: EncodeSettings
) -> Iterator[tuple[Document, np.ndarray]]:
    """Documents and their ids, uint32 [T], BOS and EOS included; texts are encoded in batches.

    Raises InputError where `settings.check` finds ids that are not the reference's.
    """
    vocabulary = frame_vocabulary(tokenizer, settings)
    before = np.array([i for i in (vocabulary.bos,) if i is not None], np.uint32)
    after = np.array([i for i in (vocabulary.eos,) if i is not None], np.uint32)
    has_ends = bool(before.size or after.size)
    left = settings.check
    for batch in _batches(documents):
        texts = [document.text for document in batch]
        encoded = tokenizer.encode_batch(texts, parse_special=settings.parse_special)
        for document, ids in zip(batch[:left], encoded, strict=False):
            _check(document, ids, tokenizer, settings.parse_special)
        left = max(0, left - len(batch))
        for document, ids in zip(batch, encoded, strict=True):
            yield document, np.concatenate([before, ids, after]) if has_ends else ids


def _check(document: Document, ids: np.ndarray, tokenizer: Tokenizer, parse_special: bool) -> None:
    """Raises InputError where the ids are not those of the whole text by the reference."""
    expected = np.array(tokenizer.encode(document.text, parse_special=parse_special), np.uint32)
    if np.array_equal(ids, expected):
        return
    size = min(len(ids), len(expected))
    differing = np.flatnonzero(ids[:size] != expected[:size])
    at = int(differing[0]) if len(differing) else size
    raise InputError(
        f"{document.where}: --check: from token {at} on the ids are {ids[at : at + 4].tolist()},"
        f" where the tokenizers library gives {expected[at : at + 4].tolist()}; please report it"
    )


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
    form: TokenForm = FRAMES,
    rejects: str | None = None,
    on_error: OnError = "fail",
    force: bool = False,
) -> dict[str, Any]:
    """Write the tokens of some documents; returns the counts.

    `output` is '-', a file whose name ends in .safetensors (a stream of frames, compressed by a
    further suffix), or else a directory of files with one frame each; for another form than frames
    see token_forms.py. Raises InputError for bad input and for input without any document,
    UsageError for a form that cannot hold this vocabulary.
    """
    form.check_output(output)
    form.dtype_for(tokenizer.vocab_size)
    recorder = Recorder(
        "tokenize", asdict(settings) | asdict(form) | {"tokenizer": tokenizer.identity}
    )
    recorder.read_named(tokenizer.where)
    with open_skips(output, rejects, on_error, force=force) as skips:
        run = _Run(inputs, tokenizer, settings, recorder, skips)
        if form.name == "jsonl":
            with open_output(output, force=force) as out:
                for document, ids in run.documents():
                    record = {"id": document.id, "ids": ids}
                    out.write(orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
            recorder.wrote(out)
            recorder.write_beside(output)
        else:
            write_token_files(output, run.frames, recorder, form=form, force=force)
    return recorder.counts


@contextmanager
def _plain_stdin(inputs: list[str]) -> Iterator[None]:
    """Let `echo text | llm tokenize` mean that text: stdin that begins like no JSON is one."""
    head = peek_stdin() if STDIO in inputs else b""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    is_text = not head.startswith(COMPRESSED)
    if not start or start[:1] in b"{[" or not is_text:
        yield
        return
    terminal.note("tokenize: stdin does not begin with { or [, so it is read as one plain text")
    with standing_in(sys.stdin.buffer, "stdin.txt"):
        yield


class _Run:
    """The documents of a run, counted while they are encoded."""

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

    def frames(self, frame_bytes: int) -> Iterator[TokenFrame]:
        """Frames that close when their ids pass `frame_bytes`."""
        vocabulary = frame_vocabulary(self._tokenizer, self._settings)
        return _framed(self.documents(), vocabulary, frame_bytes)

    def documents(self) -> Iterator[tuple[Document, np.ndarray]]:
        """Documents and their ids; raises NothingLeft where there is none."""
        num_documents = num_tokens = num_bytes = num_shown = 0
        documents = read_documents(
            self._inputs,
            text_key=self._settings.text_key,
            id_key=self._settings.id_key,
            on_read=self._recorder.read,
            skips=self._skips,
        )
        with terminal.progress("tokenize", unit="tok") as bar, _plain_stdin(self._inputs):
            found = encodable(documents, self._tokenizer, self._skips)
            for document, ids in encode_each(found, self._tokenizer, self._settings):
                text = document.text
                num_documents += 1
                num_tokens += len(ids)
                num_bytes += len(text) if text.isascii() else len(text.encode())
                if num_tokens - num_shown >= SHOWN_TOKENS:
                    bar.update(num_tokens - num_shown)
                    num_shown = num_tokens
                yield document, ids
            bar.update(num_tokens - num_shown)
        counts = {"documents": num_documents, "tokens": num_tokens, "text_bytes": num_bytes}
        if not num_documents:
            raise NothingLeft(
                f"{names_of(self._inputs)}: no documents in the input{self._skips.explain()}",
                counts | {"documents_skipped": self._skips.count},
            )
        self._recorder.count(**counts)
        self._skips.record(self._recorder)
