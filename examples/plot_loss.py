"""The loss curve of a run as a picture: plot_loss.py RUN/metrics.jsonl OUT.png [--unigram NATS].

--unigram draws the entropy of the token frequencies, the loss of a model that knows nothing else.
Needs matplotlib (the extra `plots`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def curve(steps: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, where it was measured."""
    points = [(line["step"], line[name]) for line in steps if line.get(name) is not None]
    return [step for step, _ in points], [value for _, value in points]


def plot(steps: list[dict[str, Any]], out: Path, unigram: float | None) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(*curve(steps, "loss"), linewidth=0.8, label="training batch")
    if curve(steps, "val_loss")[0]:
        axes.plot(*curve(steps, "val_loss"), marker="o", markersize=3, label="validation")
    if unigram is not None:
        axes.axhline(unigram, linestyle="--", color="grey", label="unigram entropy")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per token)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the loss curve of a training run.")
    parser.add_argument("metrics", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--unigram", type=float, metavar="NATS")
    arguments = parser.parse_args()
    steps = [json.loads(line) for line in arguments.metrics.read_text().splitlines()]
    plot(steps, arguments.out, arguments.unigram)


if __name__ == "__main__":
    main()
