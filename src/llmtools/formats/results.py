"""results.json: what an evaluation measured, of which model, with which settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmtools import __version__
from llmtools.formats.stream import write_file

SCHEMA = "llmtools/results@1"
FILE_NAME = "results.json"


def write_results(
    directory: Path,
    results: Mapping[str, Mapping[str, float | int]],
    *,
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Write results.json into a directory that is being filled.

    results: task -> metric -> value. model: path, digest of its weights and tokenizer identity.
    """
    value = {
        "schema": SCHEMA,
        "version": __version__,
        "results": results,
        "model": model,
        "settings": settings,
    }
    data = json.dumps(value, indent=2, ensure_ascii=False).encode()
    write_file(directory / FILE_NAME, data + b"\n")
