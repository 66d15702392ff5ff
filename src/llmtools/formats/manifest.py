"""manifest.json: which inputs, command, version and settings made an output.

A directory holds `manifest.json`; a file has `FILE.manifest.json` beside it. Digests are xxh3-128
of the bytes as stored.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from llmtools import __version__
from llmtools.errors import InputError
from llmtools.formats.stream import STDIO, InputStream, OutputStream, is_device, write_file

SCHEMA = "llmtools/manifest@1"
FILE_NAME = "manifest.json"


def digest_file(path: Path) -> tuple[int, str]:
    """Size in bytes and xxh3-128 hex digest of one file."""
    digest = xxhash.xxh3_128()
    num_bytes = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            num_bytes += len(block)
    return num_bytes, digest.hexdigest()


def manifest_path(output: Path) -> Path:
    """Where the manifest of `output` lies."""
    if output.is_dir():
        return output / FILE_NAME
    return output.with_name(output.name + "." + FILE_NAME)


def read_manifest(output: Path) -> dict[str, Any] | None:
    """The manifest beside an artefact, or None where there is none."""
    path = manifest_path(output)
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_bytes())
    except ValueError as fault:
        raise InputError(f"{path}: not JSON: {fault}") from fault
    if not isinstance(value, dict):
        raise InputError(f"{path}: a manifest is a JSON object, this is {type(value).__name__}")
    return value


class Recorder:
    """Collects what a run read, wrote and counted, and writes it as a manifest."""

    def __init__(self, command: str, settings: Mapping[str, Any]) -> None:
        self._start_s = time.time()
        self._start_cpu_s = time.process_time()
        self.command = command
        self.settings = dict(settings)
        self.inputs: list[dict[str, Any]] = []
        self.outputs: list[dict[str, Any]] = []
        self.counts: dict[str, Any] = {}
        self.warnings: list[str] = []

    def read(self, stream: InputStream) -> None:
        """Record an input that has been read to its end."""
        self.inputs.append(
            {"path": stream.stream_name, "bytes": stream.num_bytes, "digest": stream.digest}
        )

    def read_path(self, path: Path) -> None:
        """Record an input by path; a directory counts as its files."""
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            num_bytes, digest = digest_file(file)
            self.inputs.append({"path": str(file), "bytes": num_bytes, "digest": digest})

    def wrote(self, stream: OutputStream) -> None:
        """Record an output stream that has been flushed."""
        self.outputs.append(
            {"path": stream.name, "bytes": stream.num_bytes, "digest": stream.digest}
        )

    def wrote_tree(self, directory: Path) -> None:
        """Record every file of an output directory (paths relative to it)."""
        for file in sorted(p for p in directory.rglob("*") if p.is_file()):
            num_bytes, digest = digest_file(file)
            name = str(file.relative_to(directory))
            self.outputs.append({"path": name, "bytes": num_bytes, "digest": digest})

    def count(self, **counts: Any) -> None:
        """Add named counts; a name given again replaces its value."""
        self.counts.update(counts)

    def as_dict(self) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "schema": SCHEMA,
            "version": __version__,
            "command": self.command,
            "argv": sys.argv[1:],
            "settings": self.settings,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "counts": self.counts,
            "warnings": self.warnings,
            "wall_s": round(time.time() - self._start_s, 3),
            "cpu_s": round(time.process_time() - self._start_cpu_s, 3),
            "peak_memory_bytes": usage.ru_maxrss * 1024,
        }

    def write_beside(self, output: str | Path) -> None:
        """Write the manifest of `output`; nothing for stdout or a device."""
        if str(output) == STDIO or is_device(str(output)):
            return
        data = json.dumps(self.as_dict(), indent=2, ensure_ascii=False, default=str)
        write_file(manifest_path(Path(output)), data.encode() + b"\n")
