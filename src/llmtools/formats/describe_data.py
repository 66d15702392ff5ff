"""What documents, token frames, packed shards and results hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from llmtools.formats.checkpoint import read_json_object
from llmtools.formats.packed import PackedDataset
from llmtools.formats.records import read_records
from llmtools.formats.stream import InputStream
from llmtools.formats.tokens import Vocabulary, read_frames

# Fields that tell the kind of a record, the first that all records have wins.
_KINDS = {
    "messages": "conversations",
    "conversations": "conversations",
    "chosen": "preferences",
    "text": "documents",
}


def describe_records(paths: list[str]) -> dict[str, Any]:
    """Documents, conversations, preferences or other JSON lines: counts, fields, text lengths."""
    stored = {"bytes": 0}
    fields: Counter[str] = Counter()
    count = 0
    text = {"characters": 0, "bytes": 0, "longest": 0}

    def on_read(stream: InputStream) -> None:
        stored["bytes"] += stream.num_bytes

    for record in read_records(paths, on_read):
        count += 1
        fields.update(record.fields.keys())
        value = record.fields.get("text")
        if isinstance(value, str):
            text["characters"] += len(value)
            text["bytes"] += len(value.encode("utf-8", "surrogatepass"))
            text["longest"] = max(text["longest"], len(value))
    kind = next((name for key, name in _KINDS.items() if count and fields[key] == count), "records")
    description: dict[str, Any] = {
        "kind": kind,
        "files": len(paths),
        "bytes": stored["bytes"],
        "records": count,
        "fields": dict(fields.most_common()),
    }
    if fields["text"]:
        description["text"] = {**text, "mean_characters": text["characters"] / fields["text"]}
    return description


def describe_frames(paths: list[str]) -> dict[str, Any]:
    """Token frames: every frame is read and checked."""
    frames = documents = num_tokens = longest = targets = 0
    vocabulary: Vocabulary | None = None
    for frame in read_frames(paths):
        vocabulary = frame.vocabulary
        frames += 1
        documents += frame.num_documents
        num_tokens += len(frame.tokens)
        longest = max(longest, int(np.diff(frame.offsets).max(initial=0)))
        targets += len(frame.tokens) if frame.loss_mask is None else int(frame.loss_mask.sum())
    return {
        "kind": "token frames",
        "files": len(paths),
        "frames": frames,
        "documents": documents,
        "tokens": num_tokens,
        "target_tokens": targets,
        "mean_tokens": num_tokens / documents if documents else 0.0,
        "longest_tokens": longest,
        **_vocabulary(vocabulary),
    }


def describe_packed(directory: Path) -> dict[str, Any]:
    """A directory of packed shards: every header and offset is checked, rows are not read."""
    dataset = PackedDataset(directory)
    return {
        "kind": "packed shards",
        "rows": dataset.num_rows,
        "seq_len": dataset.seq_len,
        "tokens": dataset.num_tokens,
        **_vocabulary(dataset.vocabulary),
    }


def _vocabulary(vocabulary: Vocabulary | None) -> dict[str, Any]:
    return {} if vocabulary is None else dict(vocabulary.as_metadata())


def describe_results(path: Path) -> dict[str, Any]:
    """results.json of `llm eval`."""
    return {"kind": "results", **read_json_object(path)}
