"""A lineage as a tree of lines, or as one object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmtools.formats.lineage import Source, Step, steps

SHOWN_FILES = 3
# What a step counted, in the order in which it is worth reading.
COUNTS = ("documents_in", "documents_kept", "documents", "tokens", "rows", "steps", "parameters")


def as_lines(path: str, root: Step) -> list[str]:
    """The artefact, and below each step what it read; a step met again is only named."""
    return [path, *_step(root, "", set())]


def _step(step: Step, indent: str, seen: set[str]) -> Iterator[str]:
    again = step.id in seen
    seen.add(step.id)
    yield f"{indent}└─ {step.command_line}" + (" (above)" if again else "")
    if again:
        return
    below = indent + "   "
    yield f"{below}{_about(step)}"
    groups = _groups(step.sources)
    for number, (maker, sources) in enumerate(groups):
        yield f"{below}{_named(sources)}" + ("" if maker else _origin(sources))
        if maker is not None:
            more = number < len(groups) - 1
            yield from _step(maker, below + ("│  " if more else ""), seen)


def _about(step: Step) -> str:
    """Version, time and counts in one line."""
    counts = step.record.get("counts")
    shown = [
        f"{counts[name]:,} {name.replace('_', ' ')}"
        for name in COUNTS
        if isinstance(counts, dict) and isinstance(counts.get(name), int)
    ]
    about = [f"llmtools {step.record.get('version', '?')}", str(step.record.get("started", "?"))]
    return ", ".join(about + shown)


def _groups(sources: list[Source]) -> list[tuple[Step | None, list[Source]]]:
    """Sources by the step that made them, in order; raw ones together."""
    found: dict[str | None, tuple[Step | None, list[Source]]] = {}
    for source in sources:
        key = None if source.step is None else source.step.id
        found.setdefault(key, (source.step, []))[1].append(source)
    return list(found.values())


def _named(sources: list[Source]) -> str:
    names = ", ".join(source.path for source in sources[:SHOWN_FILES])
    more = len(sources) - SHOWN_FILES
    return names + (f" and {more:,} more" if more > 0 else "")


def _origin(sources: list[Source]) -> str:
    piped = any(source.path.startswith("<") for source in sources)
    return "  [origin unknown: its bytes are in no manifest]" if piped else "  [raw]"


def as_object(path: str, root: Step) -> dict[str, Any]:
    """Every step once, the last one first; `made_by` names the step of an input."""
    return {"path": path, "made_by": root.id, "steps": [_object(step) for step in steps(root)]}


def _object(step: Step) -> dict[str, Any]:
    kept = ("command", "argv", "directory", "version", "started", "settings", "counts", "device")
    return {
        "id": step.id,
        "manifest": str(step.found),
        **{key: step.record[key] for key in kept if key in step.record},
        "inputs": [
            {
                "path": source.path,
                "bytes": source.num_bytes,
                "digest": source.digest,
                "made_by": None if source.step is None else source.step.id,
            }
            for source in step.sources
        ],
    }


def printable(text: str) -> str:
    """Control characters of foreign text as escapes: they must not reach the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
