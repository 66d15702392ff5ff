"""The whole of `llm extract`: files and source trees to documents.

A tree is walked in sorted order. Hidden files and directories, symbolic links below an argument,
and whatever is not a regular file are passed over, so a walk ends, and reads nothing twice. A file
becomes a document when it is UTF-8 without NUL bytes, holds more than white space, and is not
larger than allowed; the others are counted by reason.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

import xxhash

from llmtools import terminal
from llmtools.data.language import language_of
from llmtools.errors import InputError, UsageError
from llmtools.formats.document import encode
from llmtools.formats.manifest import Recorder
from llmtools.formats.stream import STDIO, check_output, open_output

_BOM = "\ufeff"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractSettings:
    """Which files become documents.

    A pattern with a slash is matched with the path below the argument, one without with the name
    alone; `*` crosses slashes. An excluded directory is not entered.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_bytes: int = 10_000_000

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise UsageError(f"max_bytes is {self.max_bytes}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class Found:
    """A text file: its path below the argument, its text and its size as stored."""

    path: str
    text: str
    data: bytes


def extract(
    paths: list[str], output: str, settings: ExtractSettings, *, force: bool = False
) -> dict[str, Any]:
    """Write a document for every text file at or below `paths`; returns the counts.

    A document's id is its path below the argument it was found under; where several arguments are
    given, each argument stands in front, so that two trees do not share ids. Raises InputError
    for a path that does not exist and where no document comes out.
    """
    arguments = expand_arguments(paths)
    check_output(output, force=force)
    recorder = Recorder("extract", asdict(settings))
    skipped: Counter[str] = Counter()
    with open_output(output, force=force) as out, terminal.progress("extract", unit="file") as bar:
        for argument in arguments:
            prefix = _prefix(argument) if len(arguments) > 1 else ""
            digest = xxhash.xxh3_128()
            num_files = num_bytes = 0
            for found in find_texts(argument, settings, skipped):
                digest.update(found.data)
                num_files += 1
                num_bytes += len(found.data)
                out.write(encode(document(found, prefix)) + b"\n")
                bar.update()
            recorder.inputs.append(
                {
                    "path": argument,
                    "files": num_files,
                    "bytes": num_bytes,
                    "digest": digest.hexdigest(),
                }
            )
        counts = {
            "documents": sum(source["files"] for source in recorder.inputs),
            "bytes": sum(source["bytes"] for source in recorder.inputs),
            "skipped": dict(skipped.most_common()),
        }
        if counts["documents"] == 0:
            reasons = "; ".join(f"{reason}: {count:,}" for reason, count in skipped.most_common())
            raise InputError(
                f"{', '.join(paths)}: no text file here"
                + (f" (skipped {reasons})" if reasons else "")
            )
    recorder.count(**counts)
    recorder.wrote(out)
    recorder.write_beside(output)
    return counts


def document(found: Found, prefix: str) -> dict[str, Any]:
    """The record of one file."""
    metadata: dict[str, Any] = {"path": found.path}
    language = language_of(found.path)
    if language is not None:
        metadata["language"] = language
    metadata["bytes"] = len(found.data)
    return {"id": prefix + found.path, "text": found.text, "metadata": metadata}


def expand_arguments(paths: list[str]) -> list[str]:
    """Existing paths as they are, globs as what they match. Raises InputError for neither."""
    arguments: list[str] = []
    for path in paths:
        if path == STDIO:
            raise UsageError("extract reads files and directories; text on stdin has no name")
        found = [path] if os.path.lexists(path) else sorted(glob.glob(path, recursive=True))
        if not found:
            raise InputError(f"{path}: no such file or directory")
        arguments += found
    return arguments


def _prefix(argument: str) -> str:
    """What stands before the ids of one argument of several: '../site/' gives 'site/'."""
    parts = [p for p in PurePath(os.path.normpath(argument)).parts if p not in ("..", ".", "/")]
    if not os.path.isdir(argument):
        parts = parts[:-1]
    return _readable("".join(part + "/" for part in parts))


def find_texts(argument: str, settings: ExtractSettings, skipped: Counter[str]) -> Iterator[Found]:
    """The text files at or below one argument, in order; `skipped` counts the others."""
    if os.path.isdir(argument):
        files = _walk(argument, settings, skipped)
    else:
        files = iter([(argument, os.path.basename(argument))])
    for file, path in files:
        data = _read(file, settings.max_bytes, skipped)
        if data is None:
            continue
        text, fault = _decode(data)
        if fault is None:
            yield Found(_readable(path), text, data)
        else:
            skipped[fault] += 1


def _walk(root: str, settings: ExtractSettings, skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    """(path to open, path below root) of the wanted files below a directory, sorted by path."""
    waiting = [""]
    while waiting:
        path = waiting.pop()
        if path and not path.endswith("/"):
            yield os.path.join(root, path), path
            continue
        below: list[str] = []
        try:
            entries = list(os.scandir(os.path.join(root, path)))
        except OSError:
            skipped["unreadable directory"] += 1
            continue
        for entry in entries:
            name = path + entry.name
            is_directory = entry.is_dir(follow_symlinks=False)
            if entry.name.startswith("."):
                skipped["hidden"] += 1
            elif entry.is_symlink():
                skipped["symbolic link"] += 1
            elif _matches(name, settings.exclude):
                skipped["excluded"] += 1
            elif is_directory:
                below.append(name + "/")
            elif settings.include and not _matches(name, settings.include):
                skipped["not included"] += 1
            else:
                below.append(name)
        # With the slash a directory sorts among files as the paths below it do.
        waiting += sorted(below, reverse=True)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    name = path.rpartition("/")[2]
    return any(
        fnmatch.fnmatchcase(path if "/" in p.rstrip("/") else name, p.rstrip("/")) for p in patterns
    )


def _read(file: str, max_bytes: int, skipped: Counter[str]) -> bytes | None:
    """The bytes of a regular file that is small enough, else None and a count of the reason."""
    try:
        # Asked before opening: opening a named pipe would wait for its writer.
        if not stat.S_ISREG(os.stat(file).st_mode):
            skipped["not a regular file"] += 1
            return None
        with open(file, "rb") as source:
            data = source.read(max_bytes + 1)
    except OSError:
        skipped["unreadable"] += 1
        return None
    if len(data) > max_bytes:
        skipped["larger than --max-bytes"] += 1
        return None
    return data


def _decode(data: bytes) -> tuple[str, str | None]:
    """The text of a file, and why it is not a document if it is none."""
    if b"\0" in data:
        return "", "binary (NUL byte)"
    try:
        text = data.decode().removeprefix(_BOM)
    except UnicodeDecodeError:
        return "", "not UTF-8"
    return text, None if text and not text.isspace() else "empty"


def _readable(path: str) -> str:
    """A path as text: bytes of a name that are not UTF-8 become U+FFFD."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
