"""--on-error: the first malformed record ends a run, or each is dropped, counted and kept aside."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import orjson

from llmtools import terminal
from llmtools.errors import UsageError
from llmtools.formats.json_edit import add_metadata
from llmtools.formats.malformed import MalformedRecord, NothingLeft
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import ZSTD_LEVEL, OutputStream, check_outputs, open_output

OnError = Literal["fail", "skip"]
NAMED_ON_STDERR = 5


class Skips:
    """What happens to malformed records.

    adds_metadata: the command writes into `metadata`, so a record where that is no object is
    malformed too. sink: where dropped records are kept, with metadata.reject.
    """

    def __init__(self, policy: OnError = "fail", *, adds_metadata: bool = False) -> None:
        self.policy = policy
        self.adds_metadata = adds_metadata
        self.sink: OutputStream | None = None
        self.count = 0

    def drop(self, fault: MalformedRecord) -> None:
        """Count and keep one record; raises the fault where the policy is to fail."""
        if self.policy == "fail":
            raise fault
        self.count += 1
        if self.count <= NAMED_ON_STDERR:
            terminal.warn(f"skipped {fault}")
        elif self.count == NAMED_ON_STDERR + 1:
            terminal.warn("more records are skipped; --rejects FILE keeps them all")
        if self.sink is not None:
            self.sink.write(rejected(fault) + b"\n")

    def explain(self) -> str:
        """For the message of a run with nothing to work on; '' where no record was dropped."""
        return f" ({self.count:,} malformed records were skipped)" if self.count else ""

    def record(self, recorder: Recorder) -> None:
        """Count what was dropped and name the file it was kept in, at the end of the input."""
        recorder.count(documents_skipped=self.count)
        if self.sink is not None:
            self.sink.flush()
            recorder.wrote(self.sink)


def check_rejects(output: str, rejects: str | None, on_error: OnError, *, force: bool) -> None:
    """Refuse outputs that cannot be, and a place for rejects where none can come."""
    if rejects is not None and on_error == "fail":
        raise UsageError("--rejects has no effect without --on-error skip")
    check_outputs([output] if rejects is None else [output, rejects], force=force)


@contextmanager
def open_rejects(
    rejects: str | None, *, force: bool, zstd_level: int = ZSTD_LEVEL
) -> Iterator[OutputStream | None]:
    """The file of what is dropped, if one is named; it appears also where nothing else was left."""
    if rejects is None:
        yield None
        return
    failure: NothingLeft | None = None
    with open_output(rejects, force=force, zstd_level=zstd_level) as sink:
        try:
            yield sink
        except NothingLeft as fault:
            failure = fault
    if failure is not None:
        raise failure


@contextmanager
def open_skips(
    output: str, rejects: str | None, on_error: OnError, *, force: bool
) -> Iterator[Skips]:
    """The Skips of a command that drops nothing else."""
    check_rejects(output, rejects, on_error, force=force)
    with open_rejects(rejects, force=force) as sink:
        skips = Skips(on_error)
        skips.sink = sink
        yield skips


def rejected(fault: MalformedRecord) -> bytes:
    """The line of a malformed record in a rejects file.

    An object keeps its bytes, metadata.reject is added. What is no object, or has no place for
    metadata, stands whole in `raw` (`raw_base64`, where it is not UTF-8).
    """
    reject = {"reject": {"rule": "malformed", "value": fault.reason, "where": fault.where}}
    if _is_object(fault.raw):
        try:
            return add_metadata(fault.raw, reject, fault.where)
        except MalformedRecord:
            pass
    whole: dict[str, Any] = {}
    try:
        whole["raw"] = fault.raw.decode()
    except UnicodeDecodeError:
        whole["raw_base64"] = base64.b64encode(fault.raw).decode()
    return orjson.dumps({"id": fault.where, **whole, "metadata": reject})


def _is_object(raw: bytes) -> bool:
    try:
        return isinstance(orjson.loads(raw), dict)
    except orjson.JSONDecodeError:
        return False
