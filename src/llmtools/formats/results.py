"""A directory of results: settings.toml, samples.jsonl that grows, and results.json written last.

samples.jsonl has one record for each example, appended as it is scored, and is the unit of resume:
a run that was stopped goes on behind the last whole record.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from llmtools import __version__
from llmtools.config import Sections, differences, format_toml, read_toml
from llmtools.errors import InputError, UsageError
from llmtools.formats.claim import lock_directory, remove
from llmtools.formats.output import check_output, check_output_directory, output_faults, write_file

SCHEMA = "llmtools/results@1"
FILE_NAME = "results.json"
SAMPLES = "samples.jsonl"
SETTINGS = "settings.toml"
# Where things lay when the run began decides nothing.
_FREE = frozenset({"model.path"})


class ResultsDirectory:
    """A results directory that one process fills; made by open_results.

    samples: the records that an earlier run left, in order.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.samples: list[dict[str, Any]] = []
        self._lock = lock
        self._file: Any = None

    def __enter__(self) -> ResultsDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            # What was appended is on disk; what a full disk refused is told already.
            with contextlib.suppress(OSError):
                self._file.close()
        os.close(self._lock)

    def keep_samples(self, count: int) -> None:
        """Drop all but the first `count` records, and what a kill cut short behind them."""
        self.samples = self.samples[:count]
        write_file(self.path / SAMPLES, b"".join(map(_line, self.samples)))

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records behind the others; they are on disk when this returns."""
        with output_faults(str(self.path / SAMPLES)):
            if self._file is None:
                self._file = open(self.path / SAMPLES, "ab")
            self._file.write(b"".join(map(_line, records)))
            self._file.flush()
            os.fsync(self._file.fileno())


def _line(record: Mapping[str, Any]) -> bytes:
    return orjson.dumps(record) + b"\n"


def open_results(path: Path, sections: Sections, *, resume: bool, force: bool) -> ResultsDirectory:
    """Make a results directory, or take up an unfinished one.

    raises: UsageError where PATH is something else or finished (without `force`), or its run had
    other settings (each is named); ResourceError when another run is in it.
    """
    if not path.is_dir():
        check_output_directory(str(path), force=force)
    with output_faults(str(path)):
        path.mkdir(parents=True, exist_ok=True)
        results = ResultsDirectory(path, lock_directory(path))
        try:
            _prepare(results, sections, resume=resume, force=force)
        except BaseException:
            os.close(results._lock)
            with contextlib.suppress(OSError):
                # What this run has just made and could not fill; rmdir takes empty ones alone.
                path.rmdir()
            raise
    return results


def _prepare(results: ResultsDirectory, sections: Sections, *, resume: bool, force: bool) -> None:
    path = results.path
    is_unfinished = (path / SETTINGS).is_file() and not (path / FILE_NAME).exists()
    if is_unfinished and not force:
        if not resume:
            raise UsageError(f"{path} holds an unfinished run; --resume goes on, -f starts over")
        changed = differences(read_toml(path / SETTINGS), sections, ignore=_FREE)
        if changed:
            raise UsageError(
                f"{path} holds an unfinished run with other settings: {'; '.join(changed)}."
                " Use them again, choose another output, or start over with -f"
            )
        results.samples = read_samples(path, is_growing=True)
        return
    if any(not entry.name.startswith(".") for entry in path.iterdir()):
        check_output(str(path), force=force)
    for entry in path.iterdir():
        remove(entry)
    write_file(path / SETTINGS, format_toml(sections).encode())


def read_samples(path: Path, *, is_growing: bool = False) -> list[dict[str, Any]]:
    """The records of samples.jsonl; with `is_growing` a last line that was cut short is left out.

    raises: InputError naming the line for anything that is no record.
    """
    file = path / SAMPLES
    if not file.is_file():
        if is_growing:
            return []
        raise InputError(f"{file}: no such file; llm eval -o writes it for multiple-choice tasks")
    lines = file.read_bytes().split(b"\n")
    if is_growing:
        lines = lines[:-1]
    found = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as fault:
            raise InputError(f"{file}:{number}: not JSON: {fault.msg}") from fault
        if not isinstance(record, dict) or not {"task", "id", "prompt_hash"} <= record.keys():
            raise InputError(f"{file}:{number}: not a sample (task, id, prompt_hash ...)")
        found.append(record)
    return found


def write_results(
    directory: Path,
    results: Mapping[str, Mapping[str, float | int]],
    *,
    tasks: Mapping[str, Mapping[str, Any]],
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Write results.json, which says that the run is finished.

    results: task -> metric -> value. tasks: task -> its full name, file, digest and prompt hash.
    model: path, digest of its files and tokenizer identity.
    """
    value = {
        "schema": SCHEMA,
        "version": __version__,
        "results": results,
        "tasks": tasks,
        "model": model,
        "settings": settings,
    }
    data = json.dumps(value, indent=2, ensure_ascii=False).encode()
    write_file(directory / FILE_NAME, data + b"\n")
