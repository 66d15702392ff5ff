"""manifest.json: which inputs, command, version and settings made an output.

A directory holds `manifest.json`; a file has `FILE.manifest.json` beside it; and every manifest,
that of a pipe too, lies in the store (manifest_store.py) under the digests of what it describes.
Digests are xxh3-128 of the bytes as stored; where those are compressed, `content_digest` is that of
the bytes inside, so that `zstdcat out.jsonl.zst | llm ...` still finds its parent.

A manifest's `id` is a digest of what decides the output: command, version, settings and the inputs'
digests, but no path or time. Models carry it inside (safetensors metadata and GGUF metadata, key
`llmtools.manifest`), and the same run made twice still gives the same bytes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import xxhash

from llmtools import __version__, terminal
from llmtools.errors import InputError
from llmtools.formats import manifest_store
from llmtools.formats.input_names import STDIO
from llmtools.formats.output import OutputStream, is_device, write_file
from llmtools.formats.peak_memory import peak_memory
from llmtools.formats.stream import InputStream

if TYPE_CHECKING:
    from llmtools.formats.drop_log import DropLog

SCHEMA = "llmtools/manifest@1"
FILE_NAME = "manifest.json"
KEY = "llmtools.manifest"
DROPS = "drops"
# Settings that say where something lay, which decides nothing about the output.
PLACES = frozenset({"path", "val_path"})
MAX_BYTES = 1 << 28


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
    return _beside(output, FILE_NAME)


def drops_path(output: Path) -> Path:
    """Where the drop log of `output` lies."""
    return _beside(output, DROPS)


def _beside(output: Path, name: str) -> Path:
    return output / name if output.is_dir() else output.with_name(f"{output.name}.{name}")


def read_manifest(output: Path) -> dict[str, Any] | None:
    """The manifest beside an artefact, or None where there is none."""
    path = manifest_path(output)
    return parse_manifest(path) if path.is_file() else None


def parse_manifest(path: Path) -> dict[str, Any]:
    """A manifest file; raises InputError for anything that is none."""
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, a manifest has at most {MAX_BYTES}")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as fault:
        raise InputError(f"{path}: not JSON: {fault}") from fault
    if not isinstance(value, dict):
        raise InputError(f"{path}: a manifest is a JSON object, this is {type(value).__name__}")
    return value


def entries(record: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The well-formed entries of a manifest's `inputs` or `outputs`; others are left out."""
    found = record.get(key)
    return [
        entry
        for entry in (found if isinstance(found, list) else [])
        if isinstance(entry, dict)
        and isinstance(entry.get("path"), str)
        and isinstance(entry.get("digest"), str)
    ]


class Recorder:
    """Collects what a run read, wrote and counted, and writes it as a manifest.

    part: which of several outputs of one run this is, as 'step-000500'. device: where it computed.
    """

    def __init__(self, command: str, settings: Mapping[str, Any]) -> None:
        self._started = datetime.now(UTC)
        self._start_s = time.monotonic()
        self._start_cpu_s = time.process_time()
        self.command = command
        self.settings = dict(settings)
        self.part = ""
        self.device = "cpu"
        self.inputs: list[dict[str, Any]] = []
        self.outputs: list[dict[str, Any]] = []
        self.counts: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.drops: DropLog | None = None

    @property
    def id(self) -> str:
        """The manifest's id; final once the settings and inputs are complete."""
        decisive = {
            "schema": SCHEMA,
            "version": __version__,
            "command": self.command,
            "part": self.part,
            "settings": _without_places(self.settings),
            "inputs": [entry["digest"] for entry in self.inputs],
        }
        text = orjson.dumps(
            decisive, default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
        )
        return xxhash.xxh3_128_hexdigest(text)

    def read(self, stream: InputStream) -> None:
        """Record an input that has been read to its end."""
        self.inputs.append(_stream_entry(stream.stream_name, stream))

    def read_path(self, path: Path) -> None:
        """Record an input by path; a directory counts as its files."""
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            num_bytes, digest = digest_file(file)
            self.inputs.append({"path": str(file), "bytes": num_bytes, "digest": digest})

    def read_named(self, name: str) -> None:
        """Record a file by its name; what was made in memory has none and is left out."""
        if Path(name).is_file():
            self.read_path(Path(name))

    def read_tree(self, directory: Path, pattern: str) -> str:
        """Record the files of an artefact's directory that match; returns their common digest.

        A file that the directory's manifest lists with its present size, and that is not younger
        than the manifest, has its digest from there, so that a large data set need not be read
        twice; such entries say so.
        """
        record = read_manifest(directory) or {}
        written_ns = manifest_path(directory).stat().st_mtime_ns if record else 0
        listed = {entry["path"]: entry for entry in entries(record, "outputs")}
        total = xxhash.xxh3_128()
        for file in sorted(directory.glob(pattern)):
            known = listed.get(file.name)
            status = file.stat()
            num_bytes = status.st_size
            entry: dict[str, Any] = {"path": str(file), "bytes": num_bytes}
            is_as_listed = known is not None and known.get("bytes") == num_bytes
            if known is not None and is_as_listed and status.st_mtime_ns <= written_ns:
                entry |= {"digest": known["digest"], "digest_from": FILE_NAME}
            else:
                entry["digest"] = digest_file(file)[1]
            self.inputs.append(entry)
            total.update(f"{file.name} {entry['digest']}\n".encode())
        return total.hexdigest()

    def wrote(self, stream: OutputStream) -> None:
        """Record an output stream that has been flushed."""
        self.outputs.append(_stream_entry(stream.name, stream))

    def wrote_tree(self, directory: Path) -> None:
        """Record every file of an output directory (paths relative to it)."""
        for file in sorted(p for p in directory.rglob("*") if p.is_file()):
            num_bytes, digest = digest_file(file)
            name = str(file.relative_to(directory))
            self.outputs.append({"path": name, "bytes": num_bytes, "digest": digest})

    def count(self, **counts: Any) -> None:
        """Add named counts; a name given again replaces its value."""
        self.counts.update(counts)

    def warn(self, message: str) -> None:
        """Say that something was not as asked, here and in the manifest."""
        terminal.warn(message)
        self.warnings.append(message)

    def as_dict(self) -> dict[str, Any]:
        parents = [
            found
            for entry in self.inputs
            for digest in (entry["digest"], entry.get("content_digest"))
            for found in manifest_store.ids_of(digest)
        ]
        record = {
            "schema": SCHEMA,
            "id": self.id,
            "version": __version__,
            "command": self.command,
            "argv": sys.argv[1:],
            "directory": os.getcwd(),
            "started": self._started.isoformat(timespec="seconds"),
            "settings": self.settings,
            "inputs": self.inputs,
            "parents": [one for one in dict.fromkeys(parents) if one != self.id],
            "outputs": self.outputs,
            "counts": self.counts,
            "warnings": self.warnings,
            "wall_s": round(time.monotonic() - self._start_s, 3),
            "cpu_s": round(time.process_time() - self._start_cpu_s, 3),
            "peak_memory_bytes": peak_memory(),
            "device": self.device,
        }
        if self.part:
            record["part"] = self.part
        if self.drops is not None:
            record["drops"] = {"documents": self.drops.num_documents}
        return record

    def write_beside(self, *outputs: str | Path) -> None:
        """Write the manifest beside each output (stdout and devices have none) and to the store.

        The drop log, where documents were dropped, goes beside the first one and to the store.
        """
        record = self.as_dict()
        data = json.dumps(record, indent=2, ensure_ascii=False, default=str).encode() + b"\n"
        drops = None
        if self.drops is not None and self.drops.num_documents:
            drops = self.drops.data()
        for number, output in enumerate(outputs):
            if str(output) == STDIO or is_device(str(output)):
                continue
            if drops is not None and number == 0:
                write_file(drops_path(Path(output)), drops)
            else:
                # That of an output that this one has replaced.
                drops_path(Path(output)).unlink(missing_ok=True)
            write_file(manifest_path(Path(output)), data)
        keys = [record["id"]]
        for entry in self.outputs:
            keys += [entry["digest"], entry.get("content_digest", entry["digest"])]
        manifest_store.put(record["id"], list(dict.fromkeys(keys)), data, drops)


def _stream_entry(name: str, stream: InputStream | OutputStream) -> dict[str, Any]:
    entry = {"path": name, "bytes": stream.num_bytes, "digest": stream.digest}
    if stream.content_digest != stream.digest:
        entry["content_digest"] = stream.content_digest
    return entry


def _without_places(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    return {k: _without_places(v) for k, v in settings.items() if k not in PLACES}
