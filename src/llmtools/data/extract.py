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
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

import xxhash

from llmtools import terminal
from llmtools.data.language import language_of
from llmtools.errors import InputError, UsageError
from llmtools.formats.input_names import STDIO
from llmtools.formats.json_edit import encode
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import OutputStream, check_outputs, open_output
from llmtools.formats.skips import OnError, open_rejects
from llmtools.formats.stream import open_input

_BOM = "\ufeff"
# Reasons that are faults of a file, as opposed to a file that is simply no text.
_FAULTS = ("unreadable", "unreadable directory", "not UTF-8")


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


class Passed:
    """Counts what was passed over, by reason.

    Files that were looked at and are no document also go to `sink`, where there is one; a faulty
    one ends the run under the policy to fail.
    """

    def __init__(self, policy: OnError = "skip") -> None:
        self.policy = policy
        self.sink: OutputStream | None = None
        self.counts: Counter[str] = Counter()

    def count(self, reason: str) -> None:
        """Something that was not asked for."""
        self.counts[reason] += 1

    def drop(self, file: str, path: str, reason: str) -> None:
        """A file that is no document."""
        self.counts[reason] += 1
        if self.policy == "fail" and reason in _FAULTS:
            raise InputError(f"{file}: {reason} (--on-error skip passes over such files)")
        if self.sink is not None:
            reject = {"rule": "extract", "value": reason}
            path = _readable(path)
            record = {"id": path, "metadata": {"path": path, "reject": reject}}
            self.sink.write(encode(record) + b"\n")


def extract(
    paths: list[str],
    output: str,
    settings: ExtractSettings,
    *,
    files: list[str] | None = None,
    rejects: str | None = None,
    on_error: OnError = "skip",
    force: bool = False,
) -> dict[str, Any]:
    """Write a document for every text file at or below `paths`; returns the counts.

    A document's id is its path below the argument it was found under; where several arguments are
    given, each argument stands in front, so that two trees do not share ids. `files` are the only
    files to take, each named as PATH/..., in order; nothing is walked then. `rejects` names the
    files that are no documents, with metadata.reject. Raises InputError for a path that does not
    exist, where no document comes out, and under `on_error` "fail" for a file that cannot be read
    or is not UTF-8.
    """
    arguments = expand_arguments(paths)
    check_listed(arguments, files, settings)
    check_outputs([output] if rejects is None else [output, rejects], force=force)
    recorder = Recorder("extract", asdict(settings))
    passed = Passed(on_error)
    with (
        open_rejects(rejects, force=force) as passed.sink,
        open_output(output, force=force) as out,
    ):
        counts = _write(arguments, files, out, settings, passed, recorder)
        if counts["documents"] == 0:
            raise NothingLeft(f"{', '.join(paths)}: no text file here{_reasons(passed)}", counts)
    recorder.count(**counts)
    recorder.wrote(out)
    if passed.sink is not None:
        recorder.wrote(passed.sink)
    recorder.write_beside(output)
    return counts


def _reasons(passed: Passed) -> str:
    reasons = "; ".join(f"{reason}: {count:,}" for reason, count in passed.counts.most_common())
    return f" (skipped {reasons})" if reasons else ""


def _write(
    arguments: list[str],
    files: list[str] | None,
    out: OutputStream,
    settings: ExtractSettings,
    passed: Passed,
    recorder: Recorder,
) -> dict[str, Any]:
    """Write the documents of all arguments; returns the counts."""
    with terminal.progress("extract", unit="file") as bar:
        for argument in arguments:
            prefix = _prefix(argument) if len(arguments) > 1 else ""
            digest = xxhash.xxh3_128()
            num_files = num_bytes = 0
            for found in find_texts(argument, settings, passed, files):
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
    return {
        "documents": sum(source["files"] for source in recorder.inputs),
        "bytes": sum(source["bytes"] for source in recorder.inputs),
        "skipped": dict(passed.counts.most_common()),
    }


def digest_again(argument: Path, settings: Mapping[str, Any]) -> str | None:
    """The digest of an argument's files as they are now, under the settings of a manifest.

    None where the argument is gone.
    """
    if not argument.exists():
        return None
    limit = settings.get("max_bytes")
    again = ExtractSettings(
        include=tuple(map(str, settings.get("include") or ())),
        exclude=tuple(map(str, settings.get("exclude") or ())),
        max_bytes=limit if isinstance(limit, int) else ExtractSettings().max_bytes,
    )
    digest = xxhash.xxh3_128()
    for found in find_texts(str(argument), again, Passed()):
        digest.update(found.data)
    return digest.hexdigest()


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


def read_list(path: str) -> list[str]:
    """The names in a list of files, one a line, or between NUL bytes where it has those."""
    with open_input(path) as stream:
        data = stream.read()
    return [os.fsdecode(name) for name in data.split(b"\0" if b"\0" in data else b"\n") if name]


def check_listed(arguments: list[str], files: list[str] | None, settings: ExtractSettings) -> None:
    """Raises for a listed file that is below no argument, and for patterns beside a list."""
    if files is None:
        return
    if settings.include or settings.exclude:
        raise UsageError(
            "--include and --exclude choose from a walk, and --files-from walks nothing"
        )
    roots = tuple(os.path.join(a, "") for a in arguments if os.path.isdir(a))
    for file in files:
        if file not in arguments and not file.startswith(roots):
            raise InputError(
                f"{_readable(file)}: listed, but not at or below {', '.join(arguments)}"
            )


def find_texts(
    argument: str, settings: ExtractSettings, passed: Passed, files: list[str] | None = None
) -> Iterator[Found]:
    """The text files at or below one argument, in order; `passed` counts the others."""
    for file, path in find_files(argument, settings, passed, files):
        data, fault = _read(file, settings.max_bytes)
        text, fault = ("", fault) if fault else _decode(data)
        if fault is None:
            yield Found(_readable(path), text, data)
        else:
            passed.drop(file, path, fault)


def find_files(
    argument: str, settings: ExtractSettings, passed: Passed, files: list[str] | None = None
) -> Iterator[tuple[str, str]]:
    """(path to open, path below the argument) of the files at or below one argument, in order."""
    if not os.path.isdir(argument):
        if files is None or argument in files:
            yield argument, os.path.basename(argument)
    elif files is None:
        yield from _walk(argument, settings, passed)
    else:
        root = os.path.join(argument, "")
        yield from ((file, file[len(root) :]) for file in files if file.startswith(root))


def _walk(root: str, settings: ExtractSettings, passed: Passed) -> Iterator[tuple[str, str]]:
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
            passed.drop(os.path.join(root, path), path, "unreadable directory")
            continue
        for entry in entries:
            name = path + entry.name
            is_directory = entry.is_dir(follow_symlinks=False)
            if entry.name.startswith("."):
                passed.count("hidden")
            elif entry.is_symlink():
                passed.count("symbolic link")
            elif _matches(name, settings.exclude):
                passed.count("excluded")
            elif is_directory:
                below.append(name + "/")
            elif settings.include and not _matches(name, settings.include):
                passed.count("not included")
            else:
                below.append(name)
        # With the slash a directory sorts among files as the paths below it do.
        waiting += sorted(below, reverse=True)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    name = path.rpartition("/")[2]
    return any(
        fnmatch.fnmatchcase(path if "/" in p.rstrip("/") else name, p.rstrip("/")) for p in patterns
    )


def _read(file: str, max_bytes: int) -> tuple[bytes, str | None]:
    """The bytes of a regular file that is small enough, and why it is not read if it is not."""
    try:
        # Asked before opening: opening a named pipe would wait for its writer.
        if not stat.S_ISREG(os.stat(file).st_mode):
            return b"", "not a regular file"
        with open(file, "rb") as source:
            data = source.read(max_bytes + 1)
    except OSError:
        return b"", "unreadable"
    return data, "larger than --max-bytes" if len(data) > max_bytes else None


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
