"""What the first stage of a pipeline reads, and how it is shared out into units."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmtools import terminal
from llmtools.errors import UsageError
from llmtools.formats.input_names import expand_inputs
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.output import write_file
from llmtools.shards.pipeline import Pipeline
from llmtools.shards.split import Scan, Share, scan, shares


class FileSource:
    """Data files, by name, directory or glob."""

    def __init__(
        self, inputs: Sequence[str], suffixes: tuple[str, ...] | None, shard_bytes: int
    ) -> None:
        self._shard_bytes = shard_bytes
        self._paths = expand_inputs(inputs) if suffixes is None else expand_inputs(inputs, suffixes)
        for path in self._paths:
            if not os.path.isfile(path):
                raise UsageError(f"{path}: not a regular file; it could not be read again")
        self._scans: dict[str, Scan] = {}
        self.counts: dict[str, Any] = {}

    def identify(self, known: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for path in self._paths:
            state = os.stat(path)
            old = known.get(path, {})
            if (old.get("bytes"), old.get("mtime_ns")) == (state.st_size, state.st_mtime_ns):
                found[path] = old
                continue
            found[path] = {
                "bytes": state.st_size,
                "mtime_ns": state.st_mtime_ns,
                "digest": self._scan(path).digest,
            }
        return found

    def _scan(self, path: str) -> Scan:
        if path not in self._scans:
            self._scans[path] = scan(path, self._shard_bytes)
        return self._scans[path]

    def shares(self, folder: Path | None, *, is_whole: bool) -> list[Share]:
        if is_whole:
            return [Share(files=tuple(self._paths))]
        found = [self._scan(path) for path in self._paths]
        for one in found:
            if not one.is_splittable and one.num_bytes > self._shard_bytes:
                terminal.detail(f"run: {one.path} cannot be cut, so one unit reads all of it")
        return list(shares(found, self._shard_bytes))


class TreeSource:
    """Files and source trees, for extract: units are groups of files in the order of the walk."""

    def __init__(self, inputs: Sequence[str], values: dict[str, Any], shard_bytes: int) -> None:
        from llmtools.data.extract import ExtractSettings, Passed, expand_arguments, find_files

        self._shard_bytes = shard_bytes
        self._arguments = expand_arguments(list(inputs))
        settings = ExtractSettings(
            include=tuple(values["include"] or ()),
            exclude=tuple(values["exclude"] or ()),
            max_bytes=values["max_bytes"],
        )
        passed = Passed(values["on_error"])
        self._files = [
            file
            for argument in self._arguments
            for file, _ in find_files(argument, settings, passed)
        ]
        if not self._files:
            raise NothingLeft(f"{', '.join(inputs)}: no file here")
        # Arguments that overlap give a file twice, which a list of files cannot say.
        self._is_whole = len(set(self._files)) < len(self._files)
        self.counts: dict[str, Any] = {}
        if not self._is_whole:
            self.counts = {"skipped": dict(passed.counts)}

    def identify(self, known: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for file in self._files:
            state = os.stat(file)
            found[_text(file)] = {"bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
        return found

    def shares(self, folder: Path | None, *, is_whole: bool) -> list[Share]:
        if self._is_whole:
            return [Share(files=tuple(self._arguments))]
        groups: list[list[str]] = [[]]
        held = 0
        for file in self._files:
            size = os.stat(file).st_size
            if groups[-1] and held + size > self._shard_bytes:
                groups.append([])
                held = 0
            groups[-1].append(file)
            held += size
        found = []
        for number, group in enumerate(groups):
            path = f"{folder}/{number:05d}.files"
            if folder is not None:
                write_file(Path(path), b"\0".join(map(os.fsencode, group)) + b"\0")
            found.append(Share(files=tuple(self._arguments), files_from=path))
        return found


def _text(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def source_of(pipeline: Pipeline, shard_bytes: int) -> FileSource | TreeSource:
    """The reader of the first stage's inputs; raises InputError where there are none."""
    first = pipeline.stages[0]
    if first.name == "extract":
        return TreeSource(pipeline.inputs, first.values, shard_bytes)
    suffixes = (".safetensors",) if first.name == "detokenize" else None
    return FileSource(pipeline.inputs, suffixes, shard_bytes)
