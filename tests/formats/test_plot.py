"""`llm inspect --plot`: what is drawn is what the files say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmtools.errors import InputError, UsageError
from llmtools.formats.packed import PackedDataset
from llmtools.formats.plot import check_plot, curves, histogram, packed_lengths, read_metrics
from support import assert_user_error, run_llm
from tiny_packed import write_packed


def write_run(folder: Path, steps: int = 5) -> Path:
    folder.mkdir()
    lines = [
        {
            "step": step,
            "loss": 5.0 / step,
            "learning_rate": step / 1000,
            "grad_norm": 2.0 + step,
            "tokens_per_s": 100.0 * step,
            **({"val_loss": 4.0 / step} if step % 2 == 0 else {}),
        }
        for step in range(1, steps + 1)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 6, "lo')
    (folder / "run.toml").write_text("")
    return folder


def test_a_runs_curves_are_its_metrics_with_labels_and_units(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    figure = curves(read_metrics(run / "metrics.jsonl"), "run")
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels[0] == "loss (nats per token)" and "tokens per second" in labels
    assert {axes.get_xlabel() for axes in figure.axes} == {"optimizer step"}
    loss, val = figure.axes[0].lines
    assert loss.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert loss.get_ydata().tolist() == [5.0 / step for step in range(1, 6)]
    assert (val.get_xdata().tolist(), val.get_label()) == ([2, 4], "validation")
    rates = figure.axes[1].lines[0].get_ydata().tolist()
    assert rates == [step / 1000 for step in range(1, 6)]


def test_every_document_is_in_one_bar_of_the_histogram() -> None:
    lengths = np.array([1, 1, 3, 7, 500, 20000, 0], np.int64)
    (axes,) = histogram(lengths, "tokens", "x").axes
    assert sum(bar.get_height() for bar in axes.patches) == 6
    assert axes.get_xscale() == "log" and "(tokens)" in axes.get_xlabel()
    assert "6 documents, 20,512 tokens" in axes.get_title()
    with pytest.raises(InputError, match="no document"):
        histogram(np.zeros(3, np.int64), "tokens", "x")


def test_a_packed_document_counts_once_with_all_its_pieces(tmp_path: Path) -> None:
    dataset = PackedDataset(write_packed(tmp_path / "p"))
    ids, lengths = dataset.segments()
    found = packed_lengths(dataset)
    assert len(found) == len(set(ids[ids != 0].tolist()))
    assert int(found.sum()) == int(lengths[ids != 0].sum())


@pytest.mark.parametrize(
    ("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_a_picture_is_written_in_the_format_of_its_name(
    tmp_path: Path, suffix: str, magic: bytes
) -> None:
    run, out = write_run(tmp_path / "run"), tmp_path / f"curves.{suffix}"
    run_llm("inspect", run, "--plot", out)
    assert out.read_bytes().startswith(magic)
    assert_user_error(run_llm("inspect", run, "--plot", out, check=False), 2, "exists", "-f")
    run_llm("inspect", run, "--plot", out, "-f")


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png, \.svg, \.pdf"):
        check_plot(str(tmp_path / "x.gif"), force=False)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    done = run_llm("inspect", tmp_path / "config.json", "--plot", tmp_path / "x.png", check=False)
    assert_user_error(done, 3, "config.json", "--plot draws runs")
    assert not (tmp_path / "x.png").exists()


def test_without_matplotlib_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('absent')")
    run = write_run(tmp_path / "run")
    done = run_llm(
        *("inspect", run, "--plot", tmp_path / "x.png"),
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2] / 'src'}"},
        check=False,
    )
    assert_user_error(done, 4, "pip install 'llmtools-cli[plots]'")
