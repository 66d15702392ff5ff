"""One restartable piece of work: some stages of a pipeline over one part of its input.

A unit is plain data that any process can run: it names files and holds none. Its output appears
whole or not at all, so a unit that was cut off is simply run again.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One command with every setting resolved.

    name: the command; verb: the second word of a two-word one. part: which of the parts of a
    command that is divided over units; '' for the whole. values: the command's own parameters,
    without those that say what it reads and writes.
    """

    name: str
    verb: str | None = None
    part: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return " ".join(filter(None, (self.name, self.verb, self.part)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes start to end of a file."""

    path: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a unit wrote: a file, its size, lines and xxh3-128; a directory counts as its files."""

    path: str
    num_bytes: int
    num_lines: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Stages to run one after another, each on what the one before wrote.

    The first stage reads `files` by name, or `pieces`, one after another, as if they came from
    `source` with `first_line` as the number of their first line. outputs: where each stage writes.
    rejects: for each stage a place for what it drops, None where that is not asked for. parents:
    the files that the pieces are of, for the manifest. files_from: extract's list of files. beside:
    what other units wrote that this one needs too.
    attempt: which of the times that it is begun this is; see `attempt_of`.
    """

    phase: int
    index: int
    stages: tuple[Stage, ...]
    outputs: tuple[str, ...]
    rejects: tuple[str | None, ...]
    files: tuple[str, ...] = ()
    files_from: str | None = None
    pieces: tuple[Piece, ...] = ()
    source: str = "<stdin>"
    first_line: int = 1
    parents: tuple[Part, ...] = ()
    beside: tuple[str, ...] = ()
    force: bool = True
    attempt: str = ""

    @property
    def key(self) -> str:
        """How the ledger names this unit within its run."""
        return f"{self.phase}.{self.index}"

    @property
    def where(self) -> str:
        """The part of the input, for messages."""
        if self.files:
            more = len(self.files) - 1
            return self.files[0] + (f" and {more:,} more" if more else "")
        return self.source + (f" from line {self.first_line:,}" if self.first_line > 1 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a unit ended.

    code: the exit code a shell would have seen. output: the last stage's, None where nothing was
    left to write. rejects: per stage. counts: each stage's report. message: stderr.
    """

    code: int
    message: str = ""
    output: Part | None = None
    rejects: tuple[Part | None, ...] = ()
    counts: tuple[dict[str, Any], ...] = ()
    empty: str = ""
    wall_s: float = 0.0


class Pieces(io.RawIOBase):
    """The bytes of some pieces, one after another; at most one file is open at a time."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._waiting = list(reversed(pieces))
        self._file: io.BufferedReader | None = None
        self._left = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            if self._file is not None:
                self._file.close()
                self._file = None
            if not self._waiting:
                return 0
            piece = self._waiting.pop()
            self._file = open(piece.path, "rb")
            self._file.seek(piece.start)
            self._left = piece.end - piece.start
        assert self._file is not None
        data = self._file.read(min(len(buffer), self._left))
        if not data:
            raise OSError(f"{self._file.name}: ends before what was planned; it has changed")
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def unit_from(value: dict[str, Any]) -> Unit:
    """A unit that was written as JSON."""
    fields = value | {key: tuple(value[key]) for key in ("outputs", "rejects", "files", "beside")}
    fields["stages"] = tuple(Stage(**item) for item in value["stages"])
    fields["pieces"] = tuple(Piece(**item) for item in value["pieces"])
    fields["parents"] = tuple(Part(**item) for item in value["parents"])
    return Unit(**fields)


def attempt_of(unit: Unit, folder: str) -> Unit:
    """The unit with names of its own for what it writes below `folder`.

    A process that was taken for dead may go on writing, beside the one that took its unit over.
    """
    attempt = secrets.token_hex(4)

    def own(path: str) -> str:
        if not path.startswith(f"{folder}/"):
            return path
        number, dot, rest = path.rpartition("/")[2].partition(".")
        return f"{path.rpartition('/')[0]}/{number}-{attempt}{dot}{rest}"

    return replace(
        unit,
        attempt=attempt,
        outputs=tuple(map(own, unit.outputs)),
        rejects=tuple(None if path is None else own(path) for path in unit.rejects),
    )


def add_counts(total: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Sum two reports: numbers are added, tables key by key; anything else is the later one's."""
    out = dict(total)
    for key, value in more.items():
        old = out.get(key)
        if isinstance(value, dict):
            out[key] = add_counts(old if isinstance(old, dict) else {}, value)
        elif isinstance(value, int | float) and isinstance(old, int | float):
            out[key] = old + value
        else:
            out[key] = value
    return out
