"""Where an artefact comes from: manifests followed back, through pipes and copies, to raw files.

A manifest is looked for beside the artefact, then by the id inside a model file, then in the store
by a digest of the bytes. Its inputs are followed the same way. Everything read here may have been
written by anyone: an entry of the wrong form is left out, and no chain is followed in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmtools.errors import InputError
from llmtools.formats import manifest_store
from llmtools.formats.gguf import GGUFFile, is_gguf
from llmtools.formats.manifest import (
    DROPS,
    FILE_NAME,
    KEY,
    digest_file,
    entries,
    manifest_path,
    parse_manifest,
)
from llmtools.formats.model_path import LATEST, resolve_model
from llmtools.formats.tensor_header import is_container, read_header

MAX_DEPTH = 100
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """One input as its reader recorded it, and the step that made it; None: nothing is known."""

    path: str
    num_bytes: int
    digest: str
    step: Step | None
    entry: Record


@dataclass(slots=True)
class Step:
    """One run of a command: its manifest, where that was found, and what it read."""

    id: str
    record: Record
    found: Path
    sources: list[Source] = field(default_factory=list)

    @property
    def command_line(self) -> str:
        """The line as it was typed, as far as the manifest says."""
        argv = self.record.get("argv")
        words = [str(word) for word in argv] if isinstance(argv, list) else []
        return " ".join(["llm", *(words or [str(self.record.get("command", "?"))])])

    @property
    def folder(self) -> Path:
        """Where the command ran: its relative paths begin here."""
        return Path(str(self.record.get("directory", ".")))

    def drop_log(self) -> Path | None:
        """The log of what this step dropped, beside its output or in the store."""
        beside = self.found.with_name(self.found.name.removesuffix(FILE_NAME) + DROPS)
        return beside if beside.is_file() else manifest_store.drops_of(self.id)

    @property
    def output(self) -> Path | None:
        """The artefact that the manifest lies in or beside; None for one from the store."""
        if self.found.name == FILE_NAME:
            return self.found.parent
        if self.found.name.endswith("." + FILE_NAME):
            return self.found.with_name(self.found.name.removesuffix("." + FILE_NAME))
        return None


def trace(path: Path) -> Step:
    """The step that made an artefact, with all that came before it.

    raises: InputError where no manifest describes the artefact.
    """
    tracer = _Tracer()
    found = manifest_of(_artefact(path))
    if found is None:
        raise InputError(
            f"{path}: no manifest beside it, none inside it, and none of its bytes in"
            f" {manifest_store.folder()}; nothing is known about its making"
        )
    return tracer.step(found, ())


def _artefact(path: Path) -> Path:
    """A RUN directory stands for its latest step."""
    return resolve_model(path) if (path / LATEST).is_file() else path


def manifest_of(path: Path) -> Path | None:
    """The manifest file that describes an artefact as it is now, None where there is none."""
    beside = manifest_path(path)
    if beside.is_file() and _describes(parse_manifest(beside), path):
        return beside
    for file in _weight_files(path):
        for found in manifest_store.manifests_of(_inner_id(file)):
            # Other tools copy a file's metadata into what they make of it.
            if _describes(parse_manifest(found), file):
                return found
    for file in [path] if path.is_file() else _data_files(path):
        for found in manifest_store.manifests_of(digest_file(file)[1]):
            return found
    return None


def _describes(record: Record, path: Path) -> bool:
    """Whether a manifest's outputs still have the sizes it lists; digests are --check's work."""
    listed = entries(record, "outputs")
    if path.is_file():
        return any(e.get("bytes") == path.stat().st_size for e in listed)
    return all(
        not (path / e["path"]).is_file() or (path / e["path"]).stat().st_size == e.get("bytes")
        for e in listed
    )


def _weight_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(path.glob("*model*.safetensors"))


def _data_files(path: Path) -> list[Path]:
    hidden = (FILE_NAME, DROPS)
    return [p for p in sorted(path.iterdir()) if p.is_file() and not p.name.endswith(hidden)]


def _inner_id(file: Path) -> str | None:
    """The manifest id that a model file carries."""
    if is_gguf(file):
        value = GGUFFile(file).metadata.get(KEY)
        return value if isinstance(value, str) else None
    with open(file, "rb") as stream:
        if not is_container(stream.read(9)):
            return None
        stream.seek(0)
        header = read_header(stream, str(file))
    return None if header is None else header.metadata.get(KEY)


class _Tracer:
    def __init__(self) -> None:
        self._known: dict[str, Step] = {}

    def step(self, found: Path, below: tuple[str, ...]) -> Step:
        record = parse_manifest(found)
        id = str(record.get("id", found))
        if id in self._known:
            return self._known[id]
        step = Step(id, record, found)
        if len(below) < MAX_DEPTH:
            chain = (*below, id)
            step.sources = [self._source(e, step, chain) for e in entries(record, "inputs")]
        self._known[id] = step
        return step

    def _source(self, entry: Record, reader: Step, chain: tuple[str, ...]) -> Source:
        num_bytes = entry.get("bytes")
        maker = self._maker(entry, reader, chain)
        return Source(
            path=entry["path"],
            num_bytes=num_bytes if isinstance(num_bytes, int) else 0,
            digest=entry["digest"],
            step=maker,
            entry=entry,
        )

    def _maker(self, entry: Record, reader: Step, chain: tuple[str, ...]) -> Step | None:
        for digest in (entry["digest"], entry.get("content_digest")):
            for found in manifest_store.manifests_of(digest):
                # A command that changes nothing reads and writes the same bytes.
                if found.stem not in chain:
                    return self.step(found, chain)
        place = reader.folder / entry["path"]
        for owner in (place, place.parent):
            found = manifest_path(owner)
            if not found.is_file() or found == reader.found:
                continue
            record = parse_manifest(found)
            digests = {e["digest"] for e in entries(record, "outputs")}
            if entry["digest"] in digests and str(record.get("id", found)) not in chain:
                return self.step(found, chain)
        return None


def steps(root: Step) -> Iterator[Step]:
    """Every step once, the last one first."""
    waiting, seen = [root], {root.id}
    while waiting:
        step = waiting.pop(0)
        yield step
        for source in step.sources:
            if source.step is not None and source.step.id not in seen:
                seen.add(source.step.id)
                waiting.append(source.step)


@dataclass(frozen=True, slots=True)
class Checked:
    """One file of a lineage now: 'ok', 'changed' or 'missing'."""

    path: str
    state: str


def check(
    path: Path, root: Step, digest_again: Callable[[Step, Source], str | None]
) -> list[Checked]:
    """Re-hash the artefact and every input in its lineage that was a file.

    digest_again: the digest of an input that is no single file, None where it is gone.
    """
    path = _artefact(path)
    found: dict[str, Checked] = {}
    for entry in entries(root.record, "outputs"):
        place = path / entry["path"] if path.is_dir() else path
        if path.is_dir() or Path(entry["path"]).name == path.name or not found:
            found[str(place)] = _compare(place, entry["digest"])
    for step in steps(root):
        for source in step.sources:
            if source.path.startswith("<"):
                continue
            place = step.folder / source.path
            if place.is_dir() or "files" in source.entry:
                now = digest_again(step, source)
                state = "missing" if now is None else "ok" if now == source.digest else "changed"
                found[str(place)] = Checked(str(place), state)
            else:
                found[str(place)] = _compare(place, source.digest)
    return list(found.values())


def _compare(place: Path, digest: str) -> Checked:
    if not place.is_file():
        return Checked(str(place), "missing")
    return Checked(str(place), "ok" if digest_file(place)[1] == digest else "changed")
