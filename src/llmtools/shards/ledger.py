"""What of a run is done: one JSON object a line, appended and synced, never rewritten.

    {"event": "start", "unit": "0.3", "pid": 12}
    {"event": "done", "unit": "0.3", "attempt": "4f1c8a20", "outcome": {...}}
    {"event": "lost", "unit": "0.3", "attempt": "4f1c8a20"}
    {"event": "publish"}
    {"event": "finished", "outputs": [...], "report": {...}}

Each process appends to a file of its own, since appending to one file from several machines is not
safe on network file systems; together they are the ledger. A line that a crash cut short is what
was never promised, so it is passed over and ended. The plan beside the ledger says what the run was
started with; a run with another plan is refused.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmtools.errors import InputError, UsageError
from llmtools.formats.claim import sync_directory
from llmtools.formats.output import write_file
from llmtools.shards.unit import Outcome, Part, Unit

LEDGER = "ledger.jsonl"
LEDGERS = "ledger*.jsonl"
PLAN = "plan.json"


class Ledger:
    """The ledger of one work directory; this process appends to the file `name` of it.

    done: the outcome of each unit that is done. attempts: how often each was begun. losses: how
    often what a unit had written was found to be gone or changed.
    """

    def __init__(self, folder: Path, name: str = LEDGER) -> None:
        self._folder = folder
        self._path = folder / name
        self.done: dict[str, Outcome] = {}
        self.attempts: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.finished: dict[str, Any] | None = None
        self.is_publishing = False
        self._attempt: dict[str, str] = {}
        self._lost: set[tuple[str, str]] = set()
        self._read: dict[str, int] = {}
        self.refresh()
        data = self._path.read_bytes() if self._path.exists() else b""
        # Whole but for its line end.
        self._apply(data.rpartition(b"\n")[2])
        self._file = open(self._path, "ab", buffering=0)
        if data and not data.endswith(b"\n"):
            self._file.write(b"\n")
        self._read[name] = self._file.tell()
        sync_directory(folder)

    def refresh(self) -> None:
        """Read what other processes have appended."""
        for path in sorted(self._folder.glob(LEDGERS)):
            start = self._read.get(path.name, 0)
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size <= start:
                    continue
                file.seek(start)
                whole = file.read().rpartition(b"\n")[0]
            for line in whole.split(b"\n"):
                self._apply(line)
            self._read[path.name] = start + len(whole) + bool(whole)

    def _apply(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            event = entry["event"]
            if event == "start":
                self.attempts[entry["unit"]] += 1
            elif event == "done":
                self._note_done(
                    entry["unit"], entry.get("attempt", ""), outcome_from(entry["outcome"])
                )
            elif event == "lost":
                self._note_lost(entry["unit"], entry["attempt"])
            elif event == "publish":
                self.is_publishing = True
            elif event == "finished":
                self.finished = entry
        except (ValueError, KeyError, TypeError):
            # Cut short by a crash; the unit is run again.
            return

    def _note_done(self, key: str, attempt: str, outcome: Outcome) -> None:
        if (key, attempt) not in self._lost:
            self.done[key], self._attempt[key] = outcome, attempt

    def _note_lost(self, key: str, attempt: str) -> None:
        if (key, attempt) not in self._lost:
            self._lost.add((key, attempt))
            self.losses[key] += 1
            if self._attempt.get(key) == attempt:
                del self.done[key], self._attempt[key]

    def _append(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        os.fsync(self._file.fileno())
        self._read[self._path.name] = self._file.tell()

    def start(self, unit: Unit, pid: int) -> None:
        """A worker begins a unit."""
        self.attempts[unit.key] += 1
        self._append({"event": "start", "unit": unit.key, "pid": pid})

    def finish(self, unit: Unit, outcome: Outcome) -> None:
        """A unit is done and its output is on disk."""
        self._note_done(unit.key, unit.attempt, outcome)
        entry = {"event": "done", "unit": unit.key, "attempt": unit.attempt}
        self._append({**entry, "outcome": asdict(outcome)})

    def lose(self, key: str) -> None:
        """What a unit wrote is gone, or not what it wrote; it is to be run again."""
        attempt = self._attempt[key]
        self._note_lost(key, attempt)
        self._append({"event": "lost", "unit": key, "attempt": attempt})

    def publish(self) -> None:
        """The output, which was not there before, may appear from here on."""
        if not self.is_publishing:
            self.is_publishing = True
            self._append({"event": "publish"})

    def close_run(self, outputs: list[dict[str, Any]], report: dict[str, Any]) -> None:
        """The whole run is done."""
        self.finished = {"event": "finished", "outputs": outputs, "report": report}
        self._append(self.finished)

    def close(self) -> None:
        self._file.close()


def _part(value: dict[str, Any] | None) -> Part | None:
    return None if value is None else Part(**value)


def outcome_from(value: dict[str, Any]) -> Outcome:
    """An outcome that was written as JSON."""
    rejects = tuple(_part(item) for item in value["rejects"])
    fields = value | {"output": _part(value["output"]), "rejects": rejects}
    return Outcome(**fields | {"counts": tuple(value["counts"])})


def read_plan(folder: Path) -> dict[str, Any] | None:
    """What the run in `folder` was started with, None where none was."""
    path = folder / PLAN
    if not path.exists():
        return None
    try:
        plan = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as fault:
        raise InputError(f"{path}: not JSON: {fault}; --no-resume starts over") from fault
    if not isinstance(plan, dict) or not {"stages", "inputs", "settings"} <= plan.keys():
        raise InputError(f"{path}: not the plan of a run; --no-resume starts over")
    return plan


def write_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Keep what a run is started with."""
    write_file(folder / PLAN, json.dumps(plan, indent=1, ensure_ascii=False).encode() + b"\n")


def check_plan(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse to go on with a run under another plan, saying what changed.

    Raises UsageError for other stages or settings, InputError for other inputs.
    """
    settings = _changes(old["settings"], new["settings"])
    before, after = [s["title"] for s in old["stages"]], [s["title"] for s in new["stages"]]
    if before != after:
        settings.append(f"the pipeline was '{' | '.join(before)}', now '{' | '.join(after)}'")
    else:
        for was, now in zip(old["stages"], new["stages"], strict=True):
            settings += [f"{was['title']}: {c}" for c in _changes(was["values"], now["values"])]
    advice = "use another --work-dir, or --no-resume to start over"
    if settings:
        raise UsageError(
            f"{folder} holds a run with other settings; {advice}:\n  " + "\n  ".join(settings)
        )
    inputs = _input_changes(old["inputs"], new["inputs"])
    if inputs:
        shown = inputs[:10] + ([f"and {len(inputs) - 10:,} more"] if len(inputs) > 10 else [])
        raise InputError(
            f"{folder} holds a run over other input; {advice}:\n  " + "\n  ".join(shown)
        )


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    keys = [*old, *(key for key in new if key not in old)]
    return [
        f"{key} was {_shown(old.get(key))}, now {_shown(new.get(key))}"
        for key in keys
        if old.get(key) != new.get(key)
    ]


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)


def _input_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    gone = [f"{path} is gone" for path in old if path not in new]
    added = [f"{path} is new" for path in new if path not in old]
    changed = [
        f"{path} has changed" for path in old if path in new and _differ(old[path], new[path])
    ]
    if not (gone or added or changed) and list(old) != list(new):
        changed = ["the inputs come in another order"]
    return gone + added + changed


def _differ(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """By content where both have a digest, else by size and time."""
    keys = ("digest",) if "digest" in old and "digest" in new else ("bytes", "mtime_ns")
    return any(old.get(key) != new.get(key) for key in keys)
