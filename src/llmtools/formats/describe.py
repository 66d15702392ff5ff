"""What a file or directory is and holds, for `llm inspect`.

A description is a dict of plain values: `path`, `kind`, what the kind has to say, and `manifest`
where one lies beside. Kinds are told by content (magic bytes, keys, headers), names help only where
several artefacts share a form.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmtools.errors import InputError
from llmtools.formats import manifest, ngram, packed, tensor_header, tokens
from llmtools.formats.checkpoint import read_json_object
from llmtools.formats.describe_data import (
    describe_frames,
    describe_packed,
    describe_records,
    describe_results,
)
from llmtools.formats.describe_model import (
    describe_adapter,
    describe_gguf,
    describe_model_dir,
    describe_tokenizer,
    describe_weights,
)
from llmtools.formats.describe_run import describe_run, is_run
from llmtools.formats.gguf import is_gguf
from llmtools.formats.gguf_vocab import TOKENIZER
from llmtools.formats.input_names import expand_inputs
from llmtools.formats.model_path import ADAPTER_CONFIG, CONFIG
from llmtools.formats.rank_files import is_ranks
from llmtools.formats.sentencepiece import is_sentencepiece
from llmtools.formats.stream import open_input

RESULTS = "results.json"
FRAMES_PATTERN = "tokens-*.safetensors*"
# A JSON artefact that is one object is at most this large; anything longer is read as JSON lines.
MAX_OBJECT_BYTES = 1 << 28

Description = dict[str, Any]


def describe(path: str) -> Description:
    """Say what PATH is and holds, with its manifest where one lies beside it.

    raises: InputError for a missing path, a damaged artefact, or something that is none of ours.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(f"{path}: no such file or directory")
    if not place.is_dir() and not place.is_file():
        raise InputError(f"{path}: a pipe or device; inspect reads files and directories")
    found = _directory(place) if place.is_dir() else _file(place)
    description = {"path": path, **found}
    record = manifest.read_manifest(place)
    if record is not None and found["kind"] != "manifest":
        description["manifest"] = record
    return description


def _directory(place: Path) -> Description:
    if (place / ADAPTER_CONFIG).is_file():
        return describe_adapter(place)
    if (place / CONFIG).is_file():
        return describe_model_dir(place)
    if is_run(place):
        return describe_run(place)
    if any(place.glob(packed.PATTERN)):
        return describe_packed(place)
    if any(place.glob(FRAMES_PATTERN)):
        return describe_frames([str(p) for p in sorted(place.glob(FRAMES_PATTERN))])
    if (place / RESULTS).is_file():
        return describe_results(place / RESULTS)
    if (place / TOKENIZER).is_file():
        return describe_tokenizer(place / TOKENIZER)
    return describe_records(expand_inputs([str(place)], (".jsonl", ".json", ".parquet", ".txt")))


def _file(place: Path) -> Description:
    if is_gguf(place):
        return describe_gguf(place)
    with open_input(str(place)) as stream:
        head = stream.peek(64)[:64]
    if not head:
        raise InputError(f"{place}: an empty file")
    if tensor_header.is_container(head):
        return _container(place)
    if head.lstrip().startswith(ngram.ARPA_MAGIC):
        return ngram.describe_arpa(place)
    opening = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if opening == b"{" and place.stat().st_size <= MAX_OBJECT_BYTES:
        value = _one_object(place)
        if value is not None:
            return _object(place, value)
    if opening in (b"{", b"[") or place.name.split(".")[1:2] == ["txt"]:
        return describe_records([str(place)])
    if is_ranks(head):
        return {"kind": "tokenizer", "model": "ranks of tiktoken"}
    if is_sentencepiece(head):
        return {"kind": "tokenizer", "model": "sentencepiece"}
    raise InputError(
        f"{place}: not an artefact that llm knows (documents, token frames, packed shards, models,"
        " tokenizers, runs, results); it begins with " + repr(head[:16])
    )


def _one_object(place: Path) -> dict[str, Any] | None:
    """The object of a file that holds exactly one, else None (JSON lines, or damaged)."""
    with open_input(str(place)) as stream:
        first = stream.readline()
        try:
            json.loads(first)
            is_lines = bool(stream.read(4096).strip())
        except (ValueError, RecursionError):
            is_lines = False
    if is_lines:
        return None
    try:
        return read_json_object(place)
    except InputError:
        return None


_BY_KEY: list[tuple[str, Callable[[Path], Description]]] = [
    ("results", describe_results),
    ("model", describe_tokenizer),
]


def _object(place: Path, value: dict[str, Any]) -> Description:
    """One JSON object: told by its keys, else a single record."""
    if str(value.get("schema", "")).startswith("llmtools/manifest@"):
        return {"kind": "manifest", **value}
    for key, describe_it in _BY_KEY:
        if isinstance(value.get(key), dict):
            return describe_it(place)
    if "model_type" in value:
        return {"kind": "model config", "config": value}
    if "weight_map" in value:
        return describe_model_dir(place.parent)
    return describe_records([str(place)])


def _container(place: Path) -> Description:
    with open_input(str(place)) as stream:
        source: Any = stream
        header = tensor_header.read_header(source, str(place))
    form = header.metadata.get("format") if header is not None else None
    if form == tokens.FORMAT:
        return describe_frames([str(place)])
    if form == packed.FORMAT:
        return describe_packed(place.parent)
    if form == ngram.FORMAT:
        return ngram.describe_ngram_model(place)
    return describe_weights(place)
