"""Pictures of artefacts for `llm inspect --plot`: a run's curves, the lengths of documents.

matplotlib (the extra `plots`) is imported when a picture is drawn.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmtools.errors import InputError, ResourceError, UsageError
from llmtools.formats.describe_run import METRICS
from llmtools.formats.document import read_documents
from llmtools.formats.output import check_output, open_output
from llmtools.formats.packed import PADDING_DOCUMENT_ID, PackedDataset
from llmtools.formats.tokens import read_frames

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
PLOTTABLE = "runs (their curves), documents, token frames and packed shards (lengths)"
# name of the metric, its label, whether its axis is logarithmic
PANELS = (
    ("loss", "loss (nats per token)", False),
    ("learning_rate", "learning rate", False),
    ("grad_norm", "gradient norm before clipping", True),
    ("tokens_per_s", "tokens per second", False),
)
BINS = 60


def check_plot(out: str, *, force: bool) -> None:
    """Refuse a picture that cannot be written, before anything is read."""
    if Path(out).suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot {out}: the name must end in one of {', '.join(SUFFIXES)}")
    check_output(out, force=force)
    try:
        import matplotlib  # noqa: F401
    except ImportError as fault:
        raise ResourceError(
            "--plot needs matplotlib; install it with: pip install 'llmtools-cli[plots]'"
        ) from fault


def draw(path: str, description: dict[str, Any]) -> Figure:
    """The picture of an artefact that describe.describe has described.

    raises: InputError for a kind that has none, or with nothing in it to draw.
    """
    kind, place = description["kind"], Path(path)
    if (place / METRICS).is_file():
        return curves(read_metrics(place / METRICS), path)
    if kind == "token frames":
        files = sorted(map(str, place.glob("*.safetensors*"))) if place.is_dir() else [path]
        parts = [np.diff(frame.offsets) for frame in read_frames(files)]
        return histogram(np.concatenate(parts), "tokens", path)
    if kind == "packed shards":
        return histogram(packed_lengths(PackedDataset(place)), "tokens", path)
    if kind == "documents":
        sizes = [len(document.encoded) for document in read_documents([path])]
        return histogram(np.array(sizes, np.int64), "bytes", path)
    raise InputError(f"{path}: --plot draws {PLOTTABLE}; this is {kind}")


def save(figure: Figure, out: str, *, force: bool) -> None:
    """Write a picture, in the format of its suffix; it appears whole or not at all."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=Path(out).suffix[1:].lower(), dpi=120)
    with open_output(out, force=force, compress=False) as sink:
        sink.write(drawn.getvalue())


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one that a kill cut short is left out."""
    found = []
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as fault:
            raise InputError(f"{file}:{number}: not JSON: {fault}") from fault
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            found.append(value)
    if not found:
        raise InputError(f"{file}: no step in it yet")
    return found


def curves(metrics: Sequence[dict[str, Any]], name: str) -> Figure:
    """Loss with validation loss, learning rate, gradient norm and tokens/s over the steps."""
    figure = _figure((10, 6.5))
    figure.suptitle(name)
    for axes, (metric, label, is_log) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        axes.plot(*_series(metrics, metric), linewidth=0.9, label="training batch")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3, which="both")
        if is_log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        elif metric != "loss":
            axes.set_ylim(0, 1.1 * max(_series(metrics, metric)[1], default=1.0) or 1.0)
        if metric == "learning_rate":
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
        if metric == "loss" and _series(metrics, "val_loss")[0]:
            axes.plot(*_series(metrics, "val_loss"), marker="o", markersize=3, label="validation")
            axes.legend()
    return figure


def _series(metrics: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, where it was measured."""
    points = [(m["step"], m[name]) for m in metrics if isinstance(m.get(name), int | float)]
    return [step for step, _ in points], [value for _, value in points]


def packed_lengths(dataset: PackedDataset) -> np.ndarray:
    """Tokens of each document in packed rows, int64; one that was cut counts as a whole."""
    ids, lengths = dataset.segments()
    is_document = ids != np.uint64(PADDING_DOCUMENT_ID)
    _, which = np.unique(ids[is_document], return_inverse=True)
    return np.bincount(which, weights=lengths[is_document]).astype(np.int64)


def histogram(lengths: np.ndarray, unit: str, name: str) -> Figure:
    """How many documents have which length, on a logarithmic axis, with the median and mean."""
    lengths = lengths[lengths > 0]
    if not len(lengths):
        raise InputError(f"{name}: no document with a length to draw")
    low, high = int(lengths.min()), int(lengths.max())
    edges = np.geomspace(low, high + 1, BINS + 1)
    figure = _figure((8, 4.5))
    axes = figure.subplots()
    axes.hist(lengths, bins=edges.tolist())
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="y", integer=True)
    for value, style, label in (
        (float(np.median(lengths)), "--", "median"),
        (float(lengths.mean()), ":", "mean"),
    ):
        text = f"{label} {value:,.0f}"
        axes.axvline(value, color="black", linestyle=style, linewidth=1, label=text)
    axes.set_xlabel(f"length of a document ({unit})")
    axes.set_ylabel("documents")
    axes.set_title(f"{name}: {len(lengths):,} documents, {int(lengths.sum()):,} {unit}")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _figure(inches: tuple[float, float]) -> Figure:
    # A Figure of its own, not pyplot's: no window system is asked for, nothing stays open.
    from matplotlib.figure import Figure

    return Figure(figsize=inches, layout="constrained")
