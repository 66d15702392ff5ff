"""The whole of `llm filter`: read, measure, write what passes and, on request, what does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from llmtools import terminal
from llmtools.data.batch import batches
from llmtools.data.quality import Check, QualitySettings, checks, judge, measure, measures
from llmtools.formats.document import Document, document_hash, read_documents
from llmtools.formats.drop_log import Drop, DropLog
from llmtools.formats.json_edit import add_metadata
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.manifest import Recorder
from llmtools.formats.skips import OnError, Skips
from llmtools.formats.stream import OutputStream, check_outputs, open_output


def filter_documents(
    inputs: list[str],
    output: str,
    settings: QualitySettings,
    *,
    rejects: str | None = None,
    annotate: bool = False,
    text_key: str = "text",
    id_key: str = "id",
    on_error: OnError = "fail",
    force: bool = False,
) -> dict[str, Any]:
    """Write the documents that pass every check, in order; returns the counts.

    `rejects` gets the others, each with metadata.reject; `annotate` adds metadata.measures to all
    that is written. Without it a document that passes keeps its bytes. Raises InputError for bad
    input and where no document passes; the rejects are written in that case too.
    """
    destinations = [output] if rejects is None else [output, rejects]
    check_outputs(destinations, force=force)
    recorder = Recorder("filter", asdict(settings))
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
                counts = _write(documents, settings, kept, dropped, annotate, recorder.drops)
                counts["documents_skipped"] = skips.count
                if counts["documents_kept"] == 0:
                    raise NothingLeft(_explain(inputs, rejects, counts, skips), counts)
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
    if failure is not None:
        raise failure
    return counts


def _write(
    documents: Iterable[Document],
    settings: QualitySettings,
    kept: OutputStream,
    dropped: OutputStream | None,
    annotate: bool,
    drops: DropLog,
) -> dict[str, Any]:
    """Judge all documents and write them where they belong; returns the counts."""
    applied = checks(settings)
    failed: Counter[Check] = Counter()
    num_documents = 0
    with terminal.progress("filter", unit="doc") as bar:
        for batch in batches(documents):
            values = measure(batch, settings)
            for row, reject in enumerate(judge(values, applied)):
                document = batch.documents[row]
                sink: OutputStream | None = kept
                added: dict[str, Any] = {}
                if annotate:
                    added["measures"] = measures(values[row], applied)
                if reject is not None:
                    failed[reject.check] += 1
                    rule = f"{reject.check.rule}: {reject.check.measure}"
                    hashed = document_hash(document.id)
                    drops.add(Drop(document_id=hashed, rule=rule, value=reject.value))
                    added["reject"] = reject.as_dict()
                    sink = dropped
                if sink is not None:
                    raw = document.raw
                    changed = add_metadata(raw, added, document.where) if added else raw
                    sink.write(changed + b"\n")
            num_documents += len(batch.documents)
            bar.update(len(batch.documents))
    by_rule: Counter[str] = Counter(dict.fromkeys(settings.rules, 0))
    by_measure: Counter[str] = Counter()
    for check, count in failed.items():
        by_rule[check.rule] += count
        by_measure[check.measure] += count
    return {
        "documents_in": num_documents,
        "documents_kept": num_documents - failed.total(),
        "dropped": dict(by_rule),
        "dropped_by_measure": dict(by_measure.most_common()),
    }


def _explain(inputs: list[str], rejects: str | None, counts: dict[str, Any], skips: Skips) -> str:
    source = ", ".join(inputs)
    if counts["documents_in"] == 0:
        return f"{source}: no documents in the input{skips.explain()}"
    reasons = ", ".join(f"{name} {count:,}" for name, count in counts["dropped"].items())
    place = "--rejects FILE" if rejects is None else rejects
    return (
        f"{source}: none of {counts['documents_in']:,} documents passed (dropped: {reasons});"
        f" {place} shows each one's reason"
    )
