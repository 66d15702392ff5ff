"""How much disk a run takes."""

from __future__ import annotations

from pathlib import Path

from llmtools.formats.space import check_space
from llmtools.train.settings import TrainSettings

# fp32 weights, and Adam's two moments of each trained one.
WEIGHT_BYTES = 4
MOMENT_BYTES = 8


def checkpoint_bytes(stored: int, trained: int) -> int:
    """One checkpoint with `stored` weights in its model file, of a run that trains `trained`."""
    return WEIGHT_BYTES * stored + MOMENT_BYTES * trained


def run_bytes(stored: int, trained: int, settings: TrainSettings) -> int:
    """All checkpoints that lie beside each other at once; logs and tokenizer are small."""
    saved = -(-settings.max_steps // settings.save_every)
    if settings.keep_last is not None:
        # A new one is written before the oldest is removed.
        saved = min(saved, settings.keep_last + 1)
    return saved * checkpoint_bytes(stored, trained)


def check_run_space(output: Path, stored: int, trained: int, settings: TrainSettings) -> None:
    """Raises ResourceError where the checkpoints would not fit; what a run has already counts."""
    there = sum(f.stat().st_size for f in output.rglob("*") if f.is_file())
    check_space(output, max(run_bytes(stored, trained, settings) - there, 0))
