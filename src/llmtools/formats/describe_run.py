"""What a training run's directory holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmtools.errors import InputError
from llmtools.formats.model_path import LATEST

SETTINGS = "run.toml"
METRICS = "metrics.jsonl"
STEP_PATTERN = "step-*"


def is_run(path: Path) -> bool:
    """Whether a directory is a RUN of `llm pretrain` or `llm finetune`."""
    return (path / LATEST).is_file() or (path / SETTINGS).is_file()


def describe_run(run: Path) -> dict[str, Any]:
    """Steps that were saved, which is the latest, and the last lines of the metrics."""
    steps = sorted(p.name for p in run.glob(STEP_PATTERN) if p.is_dir())
    latest = run / LATEST
    last, count = _last_metrics(run / METRICS)
    return {
        "kind": "run",
        "latest": latest.read_text("utf-8", errors="replace").strip() if latest.is_file() else None,
        "steps": steps,
        "metrics_lines": count,
        "last_metrics": last,
    }


def _last_metrics(path: Path) -> tuple[dict[str, Any] | None, int]:
    """The newest value of each metric, and the number of lines.

    A last line without its newline was cut short by a kill and is left out.
    """
    if not path.is_file():
        return None, 0
    last: dict[str, Any] = {}
    lines = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as fault:
            raise InputError(f"{path}:{number}: not JSON: {fault}") from fault
        if not isinstance(value, dict):
            raise InputError(f"{path}:{number}: a metrics line is a JSON object")
        last |= value
    return last, len(lines)
