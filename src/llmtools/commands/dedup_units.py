"""The parts of `llm dedup` that run as units, called by name (shards/pipeline.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmtools.commands.common import report
from llmtools.commands.dedup_methods import settings_from
from llmtools.commands.process import lean_process


def sign(*, inputs: list[str], output: str, rejects: str | None, force: bool, **given: Any) -> None:
    """The keys of a part of the input."""
    lean_process()
    from llmtools.data import dedup_units

    counts = dedup_units.sign(
        inputs,
        output,
        settings_from(given),
        rejects=rejects,
        on_error=given["on_error"],
        force=force,
    )
    report({"documents_skipped": counts["documents_skipped"]}, "")


def link(*, beside: list[str], output: str, rejects: str | None, force: bool, **given: Any) -> None:
    """The clusters of all parts; where `apply` is to write rejects, these name their survivors."""
    lean_process()
    from llmtools.data import dedup_units

    settings = settings_from(given)
    needs_names = settings.cluster_ids or rejects is not None
    report(dedup_units.link(beside, output, settings, needs_names=needs_names, force=force), "")


def apply(
    *,
    inputs: list[str],
    beside: list[str],
    output: str,
    rejects: str | None,
    force: bool,
    **given: Any,
) -> None:
    """The survivors of a part."""
    lean_process()
    from llmtools.data import dedup_units

    decisions = dedup_units.read_decisions(Path(beside[0]))
    dedup_units.apply(inputs, output, settings_from(given), decisions, rejects=rejects, force=force)
    report({}, "")
