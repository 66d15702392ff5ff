"""RUN/: run.toml, metrics.jsonl, step-000500/ with a model and state/, and `latest`, written last.

A kill at any moment leaves a directory that the same command continues: a checkpoint counts once
`latest` names it, and metrics of later steps are dropped and made again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from llmtools import __version__, signals, terminal
from llmtools.config import Sections, differences, format_toml, read_toml
from llmtools.errors import InputError, UsageError
from llmtools.formats.claim import lock_directory, remove, remove_leftovers, temporary_for
from llmtools.formats.describe_run import METRICS, SETTINGS, STEP_PATTERN
from llmtools.formats.model_path import ADAPTER_CONFIG, CONFIG, LATEST
from llmtools.formats.output import (
    atomic_directory,
    check_output,
    check_output_directory,
    output_faults,
    write_file,
)

# What may change when a run is continued: it decides neither weights nor losses.
FREE = frozenset(
    {"train.eval_every", "train.save_every", "train.keep_last"}
    | {f"{table}.{key}" for table in ("model", "data") for key in ("path", "val_path")}
    | {f"about.{key}" for key in ("version", "device", "threads")}
)


class RunDirectory:
    """The directory of one run, held by one process until it is closed; made by open_run."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._metrics: Any = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the directory."""
        if self._metrics is not None:
            self._metrics.close()
        os.close(self._lock)

    def latest(self) -> Path | None:
        """The checkpoint to continue from, None where none was finished."""
        pointer = self.path / LATEST
        if not pointer.is_file():
            return None
        step = self.path / pointer.read_text("utf-8", errors="replace").strip()
        if step.parent != self.path or not step.is_dir():
            raise InputError(f"{pointer} names {step.name!r}, which is not a checkpoint here")
        return step

    @property
    def is_published(self) -> bool:
        """Whether the run has ended and its model is the directory's own (see publish)."""
        return _is_published(self.path)

    def keep_metrics_until(self, step: int) -> None:
        """Drop the metrics of later steps and a line that a kill cut short."""
        file = self.path / METRICS
        kept: list[bytes] = []
        for line in file.read_bytes().split(b"\n")[:-1] if file.is_file() else []:
            try:
                if json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError, RecursionError) as fault:
                raise InputError(f"{file}:{len(kept) + 1}: not a metrics line: {fault}") from fault
            kept.append(line + b"\n")
        write_file(file, b"".join(kept))

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with output_faults(str(self.path / METRICS)):
            if self._metrics is None:
                # Unbuffered: what a full disk refuses must not be tried again by close().
                self._metrics = open(self.path / METRICS, "ab", buffering=0)
            left = memoryview(json.dumps(dict(metrics), allow_nan=False).encode() + b"\n")
            while left:
                left = left[self._metrics.write(left) :]

    def save(self, step: int, fill: Callable[[Path], None], *, keep_last: int | None) -> Path:
        """Write a checkpoint, point `latest` at it, then remove those beyond `keep_last`."""
        target = self.path / f"step-{step:06d}"
        with atomic_directory(str(target), force=True) as directory:
            fill(directory)
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())
        write_file(self.path / LATEST, f"{target.name}\n".encode())
        if keep_last is not None:
            older = [path for at, path in _checkpoints(self.path) if at < step]
            for path in older[: max(len(older) + 1 - keep_last, 0)]:
                _retire(path)
        return target

    def publish(self, step: Path) -> None:
        """Make the last checkpoint's model the directory's own, so that RUN is a model directory.

        The config comes last. Ends with `finish_publishing`, which removes the checkpoints.
        """
        files = [p for p in step.iterdir() if p.is_file() and p.name != "manifest.json"]
        for file in sorted(files, key=lambda p: (p.name in (CONFIG, ADAPTER_CONFIG), p.name)):
            place = temporary_for(self.path / file.name)
            remove(place)
            try:
                os.link(file, place)
            except OSError:
                # Some file systems have no hard links.
                shutil.copyfile(file, place)
            os.replace(place, self.path / file.name)
            # Renaming a link onto another link of the same file does nothing.
            remove(place)

    def finish_publishing(self) -> None:
        """Remove what only an unfinished run needs."""
        remove(self.path / LATEST)
        for _, path in _checkpoints(self.path):
            _retire(path)


def _checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Steps and directories of a run's checkpoints, in order."""
    found = [(path.name.partition("-")[2], path) for path in run.glob(STEP_PATTERN)]
    return sorted((int(digits), path) for digits, path in found if digits.isdecimal())


def _retire(path: Path) -> None:
    """Remove a directory so that it is there whole or not at all."""
    hidden = temporary_for(path)
    # Between the two a signal would leave it hidden.
    with signals.held():
        remove(hidden)
        os.rename(path, hidden)
        remove(hidden)


def _is_published(path: Path) -> bool:
    has_model = (path / CONFIG).is_file() or (path / ADAPTER_CONFIG).is_file()
    return has_model and not (path / LATEST).exists()


def run_sections(
    settings: Mapping[str, Any],
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    device: torch.device,
) -> Sections:
    """The tables of run.toml: what decides the result, and what is good to know."""
    about = {"version": __version__, "device": device.type, "threads": torch.get_num_threads()}
    tables = {"train": settings, "model": model, "data": data, "about": about}
    return {
        name: {key: value for key, value in table.items() if value is not None}
        for name, table in tables.items()
    }


def check_apart(output: Path, inputs: Iterable[Path | None]) -> None:
    """Raises UsageError where an output that may be emptied is, or holds, something to be read."""
    target = output.resolve()
    for path in inputs:
        if path is not None and (path.resolve() == target or target in path.resolve().parents):
            raise UsageError(f"{output} holds the input {path}; choose another output")


def check_run(path: Path, sections: Sections, *, resume: bool, force: bool) -> None:
    """Raises what open_run would for this directory, and changes nothing."""
    if not path.is_dir():
        check_output_directory(str(path), force=force)
        return
    handle = lock_directory(path)
    try:
        _check(path, sections, resume=resume, force=force)
    finally:
        os.close(handle)


def open_run(path: Path, sections: Sections, *, resume: bool, force: bool) -> RunDirectory:
    """Make a run's directory, or take up the one that is there.

    raises: UsageError when PATH is something else, its run has other settings (each is named), or
    `resume` is off; with `force` it is emptied instead. ResourceError when another run is in it.
    """
    if not path.is_dir():
        check_output_directory(str(path), force=force)
    with output_faults(str(path)):
        path.mkdir(parents=True, exist_ok=True)
        run = RunDirectory(path, lock_directory(path))
        try:
            _prepare(path, sections, resume=resume, force=force)
        except BaseException:
            run.close()
            raise
    return run


def _prepare(path: Path, sections: Sections, *, resume: bool, force: bool) -> None:
    """Check a locked directory and leave in it only what the run continues from."""
    has_progress = _check(path, sections, resume=resume, force=force)
    remove_leftovers(path)
    if not has_progress or force:
        for entry in path.iterdir() if force else _own_entries(path):
            remove(entry)
        write_file(path / SETTINGS, format_toml(sections).encode())


def _check(path: Path, sections: Sections, *, resume: bool, force: bool) -> bool:
    """Whether a directory holds a run that has come somewhere; raises where it cannot be taken."""
    visible = [p for p in path.iterdir() if not p.name.startswith(".")]
    is_ours = (path / SETTINGS).is_file()
    has_progress = is_ours and ((path / LATEST).is_file() or _is_published(path))
    if visible and not is_ours:
        check_output(str(path), force=force)
    elif is_ours and not force:
        if not resume:
            raise UsageError(f"{path} holds a run; --resume continues it, -f starts over")
        if has_progress:
            _check_same(path, sections)
    return has_progress


def _own_entries(path: Path) -> list[Path]:
    return [path / METRICS, path / LATEST, *(step for _, step in _checkpoints(path))]


def _check_same(path: Path, sections: Sections) -> None:
    """Refuse to continue a run with other settings; warn where only the bits may differ."""
    recorded = read_toml(path / SETTINGS)
    changed = differences(recorded, sections, ignore=FREE)
    if changed:
        raise UsageError(
            f"{path} holds a run with other settings: {'; '.join(changed)}."
            " Use them again, choose another output, or start over with -f"
        )
    before, now = recorded.get("about", {}), sections.get("about", {})
    for key in ("device", "threads"):
        if before.get(key) != now.get(key):
            terminal.warn(
                f"the run had {key} {before.get(key)}, now {now.get(key)}: it continues, but not"
                " bit for bit"
            )
