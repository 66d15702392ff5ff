"""`llm dedup` inside documents: what a corpus has had before is cut out of each text.

A document that loses nothing keeps its bytes. One that loses something gets a shorter text, every
other byte of its record stays; where too little is left, it is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson

from llmtools import terminal
from llmtools.data.segments import segments
from llmtools.errors import UsageError
from llmtools.formats.document import read_documents
from llmtools.formats.drop_log import DropLog
from llmtools.formats.json_edit import add_metadata, replace_fields
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import ZSTD_LEVEL, OutputStream, check_outputs, open_output
from llmtools.formats.record import Document, document_hash
from llmtools.formats.replay import Replay
from llmtools.formats.skips import OnError, Skips, open_rejects
from llmtools.formats.stream import names_of

Spans = npt.NDArray[np.int64]

GROUP_CHARS = 1 << 21


class SpanFinder(Protocol):
    """Says what to cut out of texts that come in corpus order.

    reads_twice: all texts go to `learn` before the first goes to `spans`.
    """

    reads_twice: bool
    settings: Any

    def learn(self, texts: Sequence[str]) -> None:
        """First reading."""

    def spans(self, texts: Sequence[str]) -> list[Spans]:
        """For each text (k, 2) start and stop in characters, in order, disjoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimSettings:
    """What becomes of a text that lost something.

    It is dropped when fewer than `min_chars` characters, `min_words` words (between white space) or
    `min_sentences` sentences are left. annotate: nothing is cut or dropped; what would be is in
    metadata.duplicate_spans as [start, stop] in characters.
    """

    method: str
    min_chars: int = 1
    min_words: int = 0
    min_sentences: int = 0
    annotate: bool = False
    text_key: str = "text"
    id_key: str = "id"

    def __post_init__(self) -> None:
        for name in ("min_chars", "min_words", "min_sentences"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 0")


def dedup_inside(
    inputs: list[str],
    output: str,
    finder: SpanFinder,
    settings: TrimSettings,
    *,
    rejects: str | None = None,
    on_error: OnError = "fail",
    zstd_level: int = ZSTD_LEVEL,
    force: bool = False,
) -> dict[str, Any]:
    """Write documents without what came before; returns the counts.

    `rejects` gets documents of which too little is left, as they were, with metadata.reject =
    {"rule": method, "value": the share of characters that came before}, and malformed ones.
    Raises InputError for bad input, for input without any document, and where nothing is left.
    """
    destinations = [output] if rejects is None else [output, rejects]
    check_outputs(destinations, force=force)
    recorder = Recorder("dedup", asdict(settings) | {"finder": asdict(finder.settings)})
    recorder.drops = DropLog()
    adds = settings.annotate or rejects is not None
    skips = Skips(on_error, adds_metadata=adds)
    text_key, id_key = settings.text_key, settings.id_key
    with (
        open_rejects(rejects, force=force, zstd_level=zstd_level) as skips.sink,
        open_output(output, force=force, zstd_level=zstd_level) as kept,
    ):
        writer = _Writer(kept, skips.sink, settings, recorder.drops)
        with ExitStack() as stack, terminal.progress("dedup", unit="doc") as bar:
            if finder.reads_twice:
                replay = stack.enter_context(
                    Replay(inputs, text_key=text_key, id_key=id_key, skips=skips)
                )
                documents = _learned(replay, finder, recorder, settings.text_key)
            else:
                documents = read_documents(
                    inputs, text_key=text_key, id_key=id_key, on_read=recorder.read, skips=skips
                )
            for group in _groups(documents):
                writer.write(group, finder.spans([document.text for document in group]))
                bar.update(len(group))
        if writer.counts["documents_in"] == 0:
            raise NothingLeft(f"{names_of(inputs)}: no documents in the input{skips.explain()}")
        if writer.counts["documents_kept"] == 0:
            raise NothingLeft(
                f"{names_of(inputs)}: too little is left of all"
                f" {writer.counts['documents_in']:,} documents; lower --min-chars, --min-doc-words"
                " or --min-doc-sentences",
                writer.counts,
            )
        sinks = [kept] if skips.sink is None else [kept, skips.sink]
        # All or none: neither output is published before both are written out.
        for sink in sinks:
            sink.flush()
    counts = writer.counts | {"documents_skipped": skips.count}
    recorder.count(**counts)
    for sink in sinks:
        recorder.wrote(sink)
    recorder.write_beside(*destinations)
    return counts


def _learned(
    replay: Replay, finder: SpanFinder, recorder: Recorder, text_key: str
) -> Iterator[Document]:
    """The second reading, after the finder has had all of the first."""
    ids: list[str] = []
    for group in _groups(replay.documents(recorder.read)):
        finder.learn([document.text for document in group])
        ids += [document.id for document in group]
    for number, (raw, own) in enumerate(zip(replay.raw_records(), ids, strict=True), 1):
        fields = orjson.loads(raw)
        yield Document(raw, fields, f"document {own!r}", number, own, fields[text_key])


def _groups(documents: Iterable[Document]) -> Iterator[list[Document]]:
    group: list[Document] = []
    num_chars = 0
    for document in documents:
        group.append(document)
        num_chars += len(document.text)
        if num_chars >= GROUP_CHARS:
            yield group
            group, num_chars = [], 0
    if group:
        yield group


class _Writer:
    """Cuts, judges, writes and counts."""

    def __init__(
        self,
        kept: OutputStream,
        rejects: OutputStream | None,
        settings: TrimSettings,
        drops: DropLog,
    ) -> None:
        self._kept, self._rejects = kept, rejects
        self._settings, self._drops = settings, drops
        self.counts = {
            "documents_in": 0,
            "documents_kept": 0,
            "documents_shortened": 0,
            "documents_dropped": 0,
            "characters_in": 0,
            "characters_removed": 0,
        }

    def write(self, group: list[Document], found: Sequence[Spans]) -> None:
        for document, spans in zip(group, found, strict=True):
            self.counts["documents_in"] += 1
            self.counts["characters_in"] += len(document.text)
            if self._settings.annotate:
                self._write_annotated(document, spans)
            elif len(spans) == 0:
                self._keep(document.raw)
            else:
                self._write_trimmed(document, spans)

    def _keep(self, record: bytes) -> None:
        self.counts["documents_kept"] += 1
        self._kept.write(record + b"\n")

    def _write_annotated(self, document: Document, spans: Spans) -> None:
        self.counts["characters_removed"] += _num_chars(spans)
        added = {"duplicate_spans": spans.tolist()}
        self._keep(add_metadata(document.raw, added, document.where))

    def _write_trimmed(self, document: Document, spans: Spans) -> None:
        text = trimmed(document.text, spans)
        if self._is_enough(text):
            self.counts["documents_shortened"] += 1
            self.counts["characters_removed"] += len(document.text) - len(text)
            changes = {self._settings.text_key: text}
            self._keep(replace_fields(document.raw, changes, document.fields))
            return
        self.counts["documents_dropped"] += 1
        self.counts["characters_removed"] += len(document.text)
        value = round(_num_chars(spans) / len(document.text), 4)
        method = self._settings.method
        self._drops.add(document_hash(document.id), method, value)
        if self._rejects is not None:
            added = {"reject": {"rule": method, "value": value}}
            self._rejects.write(add_metadata(document.raw, added, document.where) + b"\n")

    def _is_enough(self, text: str) -> bool:
        settings = self._settings
        return (
            len(text.strip()) >= settings.min_chars
            and (settings.min_words == 0 or len(text.split()) >= settings.min_words)
            and (
                settings.min_sentences == 0
                or len(segments(text, "sentence")) >= settings.min_sentences
            )
        )


def _num_chars(spans: Spans) -> int:
    return int((spans[:, 1] - spans[:, 0]).sum())


def trimmed(text: str, spans: Spans) -> str:
    """The text without the spans, and without white space that is left at its beginning."""
    kept = []
    at = 0
    for start, stop in spans.tolist():
        kept.append(text[at:start])
        at = stop
    kept.append(text[at:])
    out = "".join(kept)
    return out if text[:1].isspace() else out.lstrip()
