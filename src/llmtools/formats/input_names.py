"""Names of inputs: files, directories and globs, and '-' for stdin."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from llmtools import terminal
from llmtools.errors import InputError, UsageError

STDIO = "-"
DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".txt", ".safetensors")
COMPRESSION_SUFFIXES = ("", ".gz", ".zst", ".bz2")
# Names of data, or of compressed data, that is neither read nor written.
OTHER_SUFFIXES = (
    ".arrow", ".avro", ".csv", ".tsv", ".xlsx", ".zip", ".7z", ".xz", ".lz4", ".tar"
)  # fmt: skip
UNWRITTEN_SUFFIXES = (".parquet", *OTHER_SUFFIXES)
_mentioned: set[str] = set()


def expand_inputs(inputs: Iterable[str], suffixes: tuple[str, ...] = DATA_SUFFIXES) -> list[str]:
    """Paths, directories and globs to a list of files, in a fixed order; '-' stays '-'.

    A directory stands for the files below it that end in one of `suffixes`, compressed or not,
    sorted by path; manifests and hidden files are not data. Raises InputError when a name matches
    nothing.
    """
    names: list[str] = []
    for name in inputs:
        if name == STDIO or os.path.isfile(name) or _is_pipe(name):
            names.append(name)
        elif os.path.isdir(name):
            every = list(Path(name).rglob("*"))
            found = sorted(str(p) for p in every if _is_data(p, suffixes))
            if not found:
                raise InputError(f"{name}: no {', '.join(suffixes)} file below this directory")
            _mention_others(name, every)
            names += found
        else:
            found = sorted(p for p in glob.glob(name, recursive=True) if os.path.isfile(p))
            if not found:
                raise InputError(f"{name}: no such file or directory")
            names += found
    if names.count(STDIO) > 1:
        raise UsageError("'-' (stdin) can be read only once; name it once")
    return names


def _mention_others(name: str, every: Iterable[Path]) -> None:
    """Warn, once, of data below a directory that is not read, and so would be missed silently."""
    counts = Counter(path.suffix for path in every if path.suffix in OTHER_SUFFIXES)
    if counts and name not in _mentioned:
        _mentioned.add(name)
        listed = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(counts.items()))
        terminal.warn(f"{name}: passes over {listed}, which llmtools does not read")


def _is_pipe(name: str) -> bool:
    """Process substitution and named pipes: readable, not regular files."""
    return os.path.exists(name) and not os.path.isdir(name)


def _is_data(path: Path, suffixes: tuple[str, ...]) -> bool:
    endings = tuple(s + c for s in suffixes for c in COMPRESSION_SUFFIXES)
    return (
        path.is_file()
        and not path.name.startswith(".")
        and path.name.endswith(endings)
        and not path.name.endswith("manifest.json")
    )


def bare_suffix(name: str) -> str:
    """The suffix of a name without its compression: 'a.txt.gz' -> '.txt'."""
    path = Path(name)
    return Path(path.stem).suffix if path.suffix in COMPRESSION_SUFFIXES[1:] else path.suffix
