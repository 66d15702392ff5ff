"""Labels, row order, the schedule, and a run's directory."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from llmtools.config import differences, format_toml, read_toml
from llmtools.errors import InputError, ResourceError, UsageError
from llmtools.formats.manifest import Recorder
from llmtools.formats.packed import PATTERN, PackedDataset
from llmtools.train.data import Loader, RowOrder, ShardRows, next_token_row
from llmtools.train.run_directory import open_run, run_sections
from llmtools.train.schedule import learning_rate
from llmtools.train.settings import TrainSettings, pick_dtype
from tiny_packed import write_packed

SETTINGS = TrainSettings(
    max_steps=20,
    batch_size=2,
    learning_rate=1.0,
    min_lr_ratio=0.1,
    lr_schedule="cosine",
    warmup_steps=5,
    weight_decay=0.1,
    dtype="fp32",
    seed=1,
    save_every=10,
)
SECTIONS = {"train": {"seed": 1, "save_every": 5}, "data": {"path": "a", "digest": "d"}}


def test_labels_stay_inside_their_document_and_its_mask():
    ids = np.array([10, 11, 12, 20, 21, 30], np.uint16)
    row = next_token_row(ids, [3, 2, 1], np.array([1, 1, 0, 1, 1, 1], np.uint8))
    assert row.input_ids.tolist() == [10, 11, 12, 20, 21]
    assert row.labels.tolist() == [11, -100, -100, 21, -100]
    assert row.lengths == [3, 2]
    whole = next_token_row(ids, [6], None)
    assert whole.labels.tolist() == [11, 12, 20, 21, 30] and whole.lengths == [5]


@pytest.mark.parametrize("num_rows", [1, 2, 7, 22])
def test_every_row_comes_once_an_epoch_in_an_order_of_its_own(num_rows):
    order = RowOrder(num_rows, seed=3)
    epochs = [[order[e * num_rows + i] for i in range(num_rows)] for e in range(3)]
    assert all(sorted(epoch) == list(range(num_rows)) for epoch in epochs)
    again = RowOrder(num_rows, seed=3)
    assert [again[p] for p in reversed(range(3 * num_rows))][::-1] == [
        row for epoch in epochs for row in epoch
    ]
    if num_rows > 6:
        assert epochs[0] != epochs[1]
        assert [RowOrder(num_rows, seed=4)[i] for i in range(num_rows)] != epochs[0]


def test_every_step_has_the_same_number_of_rows_and_epochs_join_in_mid_step(tmp_path):
    rows = ShardRows(PackedDataset(write_packed(tmp_path / "train", num_rows=5)))
    loader = Loader(rows, batch_size=2, grad_accum=2, seed=1, device=torch.device("cpu"))
    taken = [[b.rows for b in loader.micro_batches(step)] for step in range(1, 6)]
    assert all([len(rows) for rows in step] == [2, 2] for step in taken)
    flat = [row for step in taken for rows in step for row in rows]
    assert all(sorted(flat[i : i + 5]) == list(range(5)) for i in range(0, 20, 5))
    assert loader.epoch_after(5) == 4.0


def test_the_schedule_warms_up_peaks_and_decays():
    rates = [learning_rate(step, SETTINGS) for step in range(1, 21)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0.1 < rates[-1] < 0.12
    middle = learning_rate(13, replace(SETTINGS, lr_schedule="linear"))
    assert middle == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate(1, replace(SETTINGS, warmup_steps=0)) == 1.0
    assert learning_rate(20, replace(SETTINGS, warmup_steps=20)) == 1.0
    assert learning_rate(1, replace(SETTINGS, max_steps=1, warmup_steps=1)) == 1.0


def test_settings_name_every_mistake():
    wrong = replace(
        SETTINGS, learning_rate=float("nan"), min_lr_ratio=2.0, adam_beta2=1.0, seed=-1, keep_last=0
    )
    text = "; ".join(wrong.mistakes())
    for flag in ("--learning-rate", "--min-lr-ratio", "--adam-beta2", "--seed", "--keep-last"):
        assert flag in text
    assert SETTINGS.mistakes() == []
    assert replace(SETTINGS, max_grad_norm=float("inf")).mistakes() == []


def test_a_dtype_that_was_asked_for_is_taken():
    cpu = torch.device("cpu")
    assert pick_dtype("fp32", cpu) == "fp32" and pick_dtype("bf16", cpu) == "bf16"
    assert pick_dtype("auto", cpu) in ("bf16", "fp32")


def test_settings_survive_toml(tmp_path):
    sections = {
        "train": {"lr": 1e-8, "big": 1e30, "inf": float("inf"), "steps": 3, "on": True},
        "data": {"path": 'a "quoted" \\ pa\u00fcth\n', "gone": None},
    }
    (tmp_path / "run.toml").write_text(format_toml(sections))
    back = read_toml(tmp_path / "run.toml")
    assert back["train"] == sections["train"]
    assert back["data"] == {"path": sections["data"]["path"]}
    changed = {"train": sections["train"] | {"steps": 4}, "data": {"new": 1}}
    assert differences(back, changed, ignore=frozenset({"data.path"})) == [
        "train.steps was 3, now 4",
        "data.new was not set, now 1",
    ]
    (tmp_path / "run.toml").write_text("steps = [")
    with pytest.raises(InputError, match=r"run\.toml"):
        read_toml(tmp_path / "run.toml")


def test_a_runs_settings_may_change_only_where_the_result_does_not(tmp_path):
    path = tmp_path / "run"
    run = open_run(path, SECTIONS, resume=True, force=False)
    run.save(1, lambda folder: None, keep_last=None)
    run.close()
    free = {"train": {"seed": 1, "save_every": 9}, "data": {"path": "b", "digest": "d"}}
    open_run(path, free, resume=True, force=False).close()
    other = {"train": {"seed": 2}, "data": {"path": "a", "digest": "e"}}
    with pytest.raises(UsageError, match=r"train\.seed was 1, now 2; data\.digest was d, now e"):
        open_run(path, other, resume=True, force=False)
    with pytest.raises(UsageError, match="--resume continues it"):
        open_run(path, SECTIONS, resume=False, force=False)
    run = open_run(path, other, resume=True, force=True)
    assert run.latest() is None and not (path / "step-000001").exists()
    run.close()


def test_a_run_that_saved_nothing_may_start_with_other_settings(tmp_path):
    run = open_run(tmp_path / "run", SECTIONS, resume=True, force=False)
    run.log({"step": 1, "loss": 2.0})
    run.close()
    other = {"train": {"seed": 2}}
    open_run(tmp_path / "run", other, resume=True, force=False).close()
    assert read_toml(tmp_path / "run" / "run.toml") == other
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_directory_of_something_else_is_never_touched(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").touch()
    with pytest.raises(UsageError, match="exists"):
        open_run(tmp_path / "photos", SECTIONS, resume=True, force=False)
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["one.jpg"]


def test_two_processes_never_train_in_one_directory(tmp_path):
    run = open_run(tmp_path / "run", SECTIONS, resume=True, force=False)
    with pytest.raises(ResourceError, match=rf"another run \(process {os.getpid()}\)"):
        open_run(tmp_path / "run", SECTIONS, resume=True, force=False)
    run.close()
    open_run(tmp_path / "run", SECTIONS, resume=True, force=False).close()


def test_metrics_of_steps_after_the_checkpoint_and_torn_lines_are_dropped(tmp_path):
    run = open_run(tmp_path / "run", SECTIONS, resume=True, force=False)
    lines = [json.dumps({"step": step}) + "\n" for step in range(5)]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(lines) + '{"step": 5, "lo')
    run.keep_metrics_until(3)
    run.log({"step": 4, "loss": 1.5})
    run.close()
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert text == "".join(lines[:4]) + '{"step": 4, "loss": 1.5}\n'


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    path = tmp_path / "run"
    with open_run(path, SECTIONS, resume=True, force=False) as run:
        run.save(5, lambda folder: None, keep_last=None)
    for name in (".step-000003.llmtools-tmp", ".step-000002.llmtools-old-7"):
        (path / name).mkdir()
    (path / "step-000002").mkdir()
    (path / ".step-000001.llmtools-old-7").mkdir()
    (path / ".latest.llmtools-tmp").touch()
    open_run(path, SECTIONS, resume=True, force=False).close()
    assert [p.name for p in path.iterdir() if p.name.startswith(".")] == []
    # Its replacement never came, so what was to be replaced is back.
    assert (path / "step-000001").is_dir()


def test_the_digest_of_packed_data_follows_its_content(tmp_path):
    one, same = write_packed(tmp_path / "a"), write_packed(tmp_path / "b")
    other = write_packed(tmp_path / "c", seed=1)

    def digest(directory):
        return Recorder("test", {}).read_tree(directory, PATTERN)

    assert digest(one) == digest(same) != digest(other)


def test_sections_leave_out_what_is_not_set():
    sections = run_sections({"a": 1, "b": None}, {}, {}, torch.device("cpu"))
    assert sections["train"] == {"a": 1} and sections["about"]["device"] == "cpu"


def test_a_model_that_was_half_published_is_published_again_without_leftovers(tmp_path):
    def fill(folder):
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")

    with open_run(tmp_path / "run", SECTIONS, resume=True, force=False) as run:
        step = run.save(5, fill, keep_last=None)
        run.publish(step)
        # As after a kill just before `latest` is removed.
        run.publish(step)
        run.finish_publishing()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.json", "model.safetensors", "run.toml"}
