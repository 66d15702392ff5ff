"""What every step of a lineage decided about one document.

A step that drops documents keeps a log of them by the xxh3-64 of their id; packed rows and token
frames name their documents by the same hash. Ids themselves are only in documents files, so the
name of a twin is found by reading those that are still there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmtools.errors import InputError
from llmtools.formats import packed, tokens
from llmtools.formats.document import read_documents
from llmtools.formats.drop_log import find_drops
from llmtools.formats.gguf import is_gguf
from llmtools.formats.lineage import Step, steps
from llmtools.formats.packed import PackedDataset
from llmtools.formats.record import document_hash
from llmtools.formats.stream import open_input
from llmtools.formats.tensor_header import is_container, read_header
from llmtools.formats.tokens import read_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One step's verdict: 'dropped', 'packed', 'in' (present in a file) or 'unknown'.

    rule, value: why it was dropped. twin: the id of the document that stayed (its hash in hex where
    the id is not to be found). rows: first and last of each run of rows of the packed directory
    `place`; tokens: of the document in all of them.
    """

    verdict: str
    step: Step
    place: str | None = None
    rule: str | None = None
    value: float | None = None
    twin: str | None = None
    rows: tuple[tuple[int, int], ...] = ()
    tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The verdict, the command line, and what is known besides."""
        known = {
            name: getattr(self, name)
            for name in ("place", "rule", "value", "twin", "rows", "tokens")
            if getattr(self, name)
        }
        return {"verdict": self.verdict, "command": self.step.command_line, **known}


def decisions(path: Path, root: Step, document_id: str) -> list[Decision]:
    """What is known about one document, the earliest step first; empty where it was never seen."""
    hashed = document_hash(document_id)
    order = list(steps(root))[::-1]
    places = _places(path, root)
    found: list[Decision] = []
    for step in order:
        found += _drops(step, hashed)
        for place in places.get(step.id, []):
            found += _contained(step, place, hashed)
    twins = {int(d.twin, 16) for d in found if d.twin is not None}
    wanted = twins if found else {hashed}
    names, seen_in = _ids(order, places, wanted)
    if not found and hashed in names:
        found = [Decision(verdict="in", step=seen_in[hashed][0], place=seen_in[hashed][1])]
    return [
        d if d.twin is None else replace(d, twin=names.get(int(d.twin, 16), d.twin)) for d in found
    ]


def _drops(step: Step, hashed: int) -> Iterator[Decision]:
    counted = step.record.get("drops")
    if not isinstance(counted, dict) or not counted.get("documents"):
        return
    log = step.drop_log()
    if log is None:
        yield Decision(verdict="unknown", step=step, rule="its drop log is gone")
        return
    for drop in find_drops(log, hashed):
        twin = None if drop.kept_id is None else f"{drop.kept_id:016x}"
        yield Decision(verdict="dropped", step=step, rule=drop.rule, value=drop.value, twin=twin)


def _places(path: Path, root: Step) -> dict[str, list[Path]]:
    """Where the output of each step still lies, as far as the lineage says."""
    found: dict[str, dict[Path, None]] = {root.id: {path: None}}
    for step in steps(root):
        if step.output is not None:
            found.setdefault(step.id, {})[step.output] = None
        for source in step.sources:
            place = step.folder / source.path
            if source.step is not None and place.is_file():
                shard = place.match(packed.PATTERN)
                found.setdefault(source.step.id, {})[place.parent if shard else place] = None
    return {id: [p for p in places if p.exists()] for id, places in found.items()}


def _contained(step: Step, place: Path, hashed: int) -> Iterator[Decision]:
    """Whether packed rows, token frames or, of the last step, documents hold the document."""
    if place.is_dir() and any(place.glob(packed.PATTERN)):
        rows, num_tokens = PackedDataset(place).rows_of(hashed)
        if len(rows):
            yield Decision(
                verdict="packed",
                step=step,
                place=str(place),
                rows=spans(rows.tolist()),
                tokens=num_tokens,
            )
    elif place.is_file() and _format(place) == tokens.FORMAT:
        for frame in read_frames([str(place)]):
            if bool((frame.document_ids == np.uint64(hashed)).any()):
                yield Decision(verdict="in", step=step, place=str(place))
                return


def spans(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """First and last of each run in rising numbers: 1, 2, 3, 7 gives (1, 3), (7, 7)."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)


def _format(place: Path) -> str | None:
    """What a container says it is; None for a file that is no container, as documents are none."""
    with open_input(str(place)) as stream:
        if not is_container(stream.peek(9)[:9]):
            return None
        source: Any = stream
        header = read_header(source, str(place))
    return None if header is None else header.metadata.get("format", "")


def _ids(
    order: list[Step], places: dict[str, list[Path]], wanted: set[int]
) -> tuple[dict[int, str], dict[int, tuple[Step, str]]]:
    """Ids by hash, and where they were met, from the documents files that are still there."""
    names: dict[int, str] = {}
    met: dict[int, tuple[Step, str]] = {}
    for step in order:
        raw = [step.folder / s.path for s in step.sources if s.step is None]
        for place in [*(p for p in raw if p.is_file()), *places.get(step.id, [])]:
            if wanted <= names.keys():
                return names, met
            settings = step.record.get("settings")
            key = settings.get("id_key", "id") if isinstance(settings, dict) else "id"
            for id in _documents(place, str(key)):
                hashed = document_hash(id)
                if hashed in wanted and hashed not in names:
                    names[hashed], met[hashed] = id, (step, str(place))
    return names, met


def _documents(place: Path, id_key: str) -> Iterator[str]:
    """The ids of a documents file; nothing for any other file."""
    try:
        if place.is_dir() or is_gguf(place) or _format(place) is not None:
            return
        for document in read_documents([str(place)], id_key=id_key):
            yield document.id
    except InputError:
        return
