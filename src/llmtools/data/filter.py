"""The whole of `llm filter`: read, judge, write what passes and, on request, what does not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmtools import terminal
from llmtools.data.batch import Batch, batches
from llmtools.data.rules.chain import Chain, Outcome
from llmtools.data.rules.table import FilterSettings, as_record
from llmtools.formats.document import read_documents
from llmtools.formats.drop_log import DropLog
from llmtools.formats.json_edit import add_metadata, encode, replace_fields
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import OutputStream, check_outputs, open_output, write_file
from llmtools.formats.record import Document, document_hash
from llmtools.formats.skips import OnError, Skips
from llmtools.formats.stream import names_of


def filter_documents(
    inputs: list[str],
    output: str,
    settings: FilterSettings,
    *,
    rejects: str | None = None,
    annotate: bool = False,
    stats: str | None = None,
    text_key: str = "text",
    id_key: str = "id",
    on_error: OnError = "fail",
    force: bool = False,
) -> dict[str, Any]:
    """Write the documents that pass every rule, in order; returns the counts.

    A document keeps its bytes except for its text where a rule changes that. `rejects` gets the
    others, each with metadata.reject. `annotate` drops and changes nothing: all documents are
    written with metadata.measures, and metadata.reject where they would have been dropped. `stats`
    gets what each rule saw, dropped and cost as JSON. Raises InputError for bad input and where no
    document passes; the rejects are written in that case too.
    """
    destinations = [output] if rejects is None else [output, rejects]
    check_outputs(destinations + ([] if stats is None else [stats]), force=force)
    chain = Chain(settings.build(), annotate=annotate)
    recorder = Recorder("filter", as_record(settings, list(chain.rules)))
    recorder.drops = DropLog()
    skips = Skips(on_error, adds_metadata=annotate or rejects is not None)
    documents = read_documents(
        inputs, text_key=text_key, id_key=id_key, on_read=recorder.read, skips=skips
    )
    failure: NothingLeft | None = None
    sinks: dict[str, OutputStream] = {}
    with ExitStack() as stack:
        if rejects is not None:
            sinks[rejects] = stack.enter_context(open_output(rejects, force=force))
            skips.sink = sinks[rejects]
        dropped = sinks.get(rejects) if rejects is not None else None
        try:
            with open_output(output, force=force) as kept:
                writer = _Writer(kept, dropped, recorder.drops, text_key)
                counts = _filter(documents, chain, writer)
                counts["documents_skipped"] = skips.count
                doubts = [doubt for rule in chain.rules if (doubt := rule.doubt())]
                if counts["documents_kept"] == 0:
                    raise NothingLeft(_explain(inputs, rejects, counts, skips, doubts), counts)
                for doubt in doubts:
                    recorder.warn(doubt)
                sinks[output] = kept
                # All or none: neither output is published before both are written out.
                for sink in sinks.values():
                    sink.flush()
        except NothingLeft as fault:
            failure = fault
    recorder.count(**counts)
    for sink in sinks.values():
        recorder.wrote(sink)
    recorder.write_beside(*(path for path in destinations if path in sinks))
    _report(chain, stats)
    if failure is not None:
        raise failure
    return counts


class _Writer:
    """Where the documents of a batch go."""

    def __init__(
        self, kept: OutputStream, dropped: OutputStream | None, drops: DropLog, text_key: str
    ) -> None:
        self.kept = kept
        self.dropped = dropped
        self._drops = drops
        self._text_key = text_key

    def write(self, batch: Batch, outcome: Outcome, *, annotate: bool) -> None:
        """Write a batch, in order."""
        if annotate:
            lines = [
                add_metadata(document.raw, _annotation(outcome, row), document.where)
                for row, document in enumerate(batch.documents)
            ]
        else:
            self._drop(batch, outcome)
            lines = [
                self._edited(document, outcome.texts[row]) if row in outcome.texts else document.raw
                for row, document in enumerate(batch.documents)
                if row not in outcome.rejects
            ]
        if lines:
            lines.append(b"")
            self.kept.write(b"\n".join(lines))

    def _edited(self, document: Document, text: bytes) -> bytes:
        if document.text_span is not None:
            start, stop = document.text_span
            return document.raw[:start] + encode(text.decode()) + document.raw[stop:]
        return replace_fields(document.raw, {self._text_key: text.decode()}, document.fields)

    def _drop(self, batch: Batch, outcome: Outcome) -> None:
        rejects = sorted(outcome.rejects.items())
        documents = [batch.documents[row] for row, _ in rejects]
        self._drops.add_all(
            [document_hash(document.id) for document in documents],
            [reject.check.full_name for _, reject in rejects],
            [reject.value if isinstance(reject.value, float) else None for _, reject in rejects],
        )
        if self.dropped is not None:
            for document, (_, reject) in zip(documents, rejects, strict=True):
                why = {"reject": reject.as_dict()}
                self.dropped.write(add_metadata(document.raw, why, document.where) + b"\n")


def _annotation(outcome: Outcome, row: int) -> dict[str, Any]:
    added = {"measures": outcome.measures[row], **outcome.metadata[row]}
    reject = outcome.rejects.get(row)
    return added if reject is None else added | {"reject": reject.as_dict()}


def _filter(documents: Iterable[Document], chain: Chain, writer: _Writer) -> dict[str, Any]:
    """Judge all documents and write them where they belong; returns the counts."""
    num_documents = 0
    with terminal.progress("filter", unit="doc") as bar:
        for batch in batches(documents):
            writer.write(batch, chain.run(batch), annotate=chain.annotate)
            num_documents += len(batch.documents)
            bar.update(len(batch.documents))
    by_rule: Counter[str] = Counter(dict.fromkeys((rule.name for rule in chain.rules), 0))
    by_measure: Counter[str] = Counter()
    for check, count in chain.failed.items():
        by_rule[check.rule] += count
        by_measure[check.measure] += count
    num_failed = chain.failed.total()
    counts: dict[str, Any] = {
        "documents_in": num_documents,
        "documents_kept": num_documents if chain.annotate else num_documents - num_failed,
        "dropped": dict(by_rule),
        "dropped_by_measure": dict(by_measure.most_common()),
    }
    if chain.annotate:
        # Nothing was dropped; these would have been.
        counts["rejected"] = counts.pop("dropped")
        counts["rejected_by_measure"] = counts.pop("dropped_by_measure")
    if any(one.edited for one in chain.stats.values()):
        counts["edited"] = {name: one.edited for name, one in chain.stats.items() if one.edited}
    missing = {field: n for rule in chain.rules for field, n in rule.missing().items()}
    if missing:
        counts["fields_missing"] = missing
    counts["rules"] = {name: asdict(one) for name, one in chain.stats.items()}
    return counts


def _report(chain: Chain, path: str | None) -> None:
    """What each rule did: with -v, and as JSON in the file of --stats."""
    for name, one in chain.stats.items():
        speed = one.bytes / 1e6 / one.seconds if one.seconds else 0.0
        terminal.detail(
            f"filter: {name}: {one.dropped:,} of {one.documents:,} documents rejected,"
            f" {one.edited:,} edited, {one.seconds:.2f} s ({speed:.0f} MB/s)"
        )
    if path is not None:
        write_stats(path, {name: asdict(one) for name, one in chain.stats.items()})


def write_stats(path: str, rules: Mapping[str, Mapping[str, Any]]) -> None:
    """What each rule saw, dropped and cost, in their order, as the JSON of --stats."""
    found = [{"rule": name, **one} for name, one in rules.items()]
    write_file(Path(path), json.dumps({"rules": found}, indent=2).encode() + b"\n")


def _explain(
    inputs: list[str],
    rejects: str | None,
    counts: dict[str, Any],
    skips: Skips,
    doubts: list[str],
) -> str:
    source = names_of(inputs)
    if counts["documents_in"] == 0:
        return f"{source}: no documents in the input{skips.explain()}"
    reasons = ", ".join(f"{name} {count:,}" for name, count in counts["dropped"].items())
    place = "--rejects FILE" if rejects is None else rejects
    return (
        f"{source}: none of {counts['documents_in']:,} documents passed (dropped: {reasons});"
        f" {place} shows each one's reason{''.join(f'; {doubt}' for doubt in doubts)}"
    )
