"""What a multiple-choice task is: examples from a file, and how they are put to a model.

A task is named NAME@STYLE#VERSION. The style `harness` is that of lm-evaluation-harness 0.4.13: the
choice is scored as a continuation of the prompt, after one space.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtools.errors import InputError, UsageError
from llmtools.formats.stream import open_input

DELIMITER = " "
MAX_LINE_BYTES = 1 << 24
_COMPRESSED = ("", ".gz", ".zst", ".bz2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question. gold: the index of the right choice."""

    id: str
    context: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """names: how its file may be called, without compression. parse: a file's lines to examples."""

    name: str
    version: str
    names: tuple[str, ...]
    layouts: str
    parse: Callable[[str, Iterator[tuple[int, str]]], Iterator[Example]]

    @property
    def label(self) -> str:
        """NAME@STYLE#VERSION."""
        return f"{self.name}@harness#{self.version}"

    def find(self, data: Path) -> Path:
        """The task's file at or below `data`; InputError where none or several could be meant."""
        if data.is_file():
            return data
        wanted = {name + ending for name in self.names for ending in _COMPRESSED}
        found = sorted(p for p in data.rglob("*") if p.name in wanted and p.is_file())
        if len(found) == 1:
            return found[0]
        if not found:
            raise InputError(
                f"{data}: no file of {self.name} here; looked for {', '.join(self.names)}"
                f" (also compressed): {self.layouts}"
            )
        raise InputError(
            f"{data}: several files could be {self.name}: {', '.join(map(str, found))};"
            " name one with --data"
        )

    def read(self, file: Path, limit: int | None = None) -> tuple[list[Example], str]:
        """The first `limit` examples and the digest of the whole file.

        raises: InputError naming file and line for anything that is not one of the layouts.
        """
        with open_input(str(file)) as stream:
            lines = _lines(stream, str(file))
            examples: list[Example] = []
            for example in self.parse(str(file), lines):
                _check(example, f"{file}: example {example.id}")
                if limit is None or len(examples) < limit:
                    examples.append(example)
            digest = stream.digest
        if not examples:
            raise InputError(f"{file}: no example of {self.name} in this file")
        return examples, digest


def _lines(stream: Any, where: str) -> Iterator[tuple[int, str]]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise InputError(f"{where}:{number}: a line of more than {MAX_LINE_BYTES} bytes")
        try:
            yield number, line.decode().rstrip("\r\n")
        except UnicodeDecodeError as fault:
            raise InputError(f"{where}:{number}: not UTF-8 at byte {fault.start}") from fault


def _check(example: Example, where: str) -> None:
    if not example.context.strip():
        raise InputError(f"{where}: the question is empty")
    if len(example.choices) < 2 or not all(choice.strip() for choice in example.choices):
        raise InputError(f"{where}: needs at least two choices, none of them empty")
    if not 0 <= example.gold < len(example.choices):
        raise InputError(f"{where}: answer {example.gold} of {len(example.choices)} choices")


def read_objects(
    where: str, lines: Iterable[tuple[int, str]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of JSON lines, each with FILE:LINE."""
    for number, line in lines:
        if not line.strip():
            continue
        place = f"{where}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as fault:
            raise InputError(f"{place}: not JSON: {fault}") from fault
        if not isinstance(value, dict):
            raise InputError(f"{place}: a JSON object was expected, this is {type(value).__name__}")
        yield place, value


def field(value: dict[str, Any], name: str, kind: type, where: str) -> Any:
    """A field of the right type; InputError naming file, line and field."""
    found = value.get(name)
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise InputError(f"{where}: field {name!r} is {found!r:.60}, not {kind.__name__}")
    return found


def texts(value: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
    """A field that is a list of strings."""
    found = field(value, name, list, where)
    if not all(isinstance(one, str) for one in found):
        raise InputError(f"{where}: field {name!r} is not a list of strings")
    return tuple(found)


def parse_names(tasks: str, known: Iterable[str]) -> list[str]:
    """'a,b' as names, each known and once; raises UsageError that lists what is not."""
    from llmtools.errors import did_you_mean

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    known = list(known)
    wrong = [f"no task {n!r}{did_you_mean(n, known)}" for n in names if n not in known]
    wrong += [f"task {n!r} is named twice" for n in dict.fromkeys(names) if names.count(n) > 1]
    if not names:
        wrong = ["--tasks names no task"]
    if wrong:
        raise UsageError(f"{'; '.join(wrong)} (there are {', '.join(known)})")
    return names
