"""The training loop in one process: normalisation, validation, refusals, and what it writes."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmtools.errors import AnswerIsNo, InputError, InterruptedRun, UsageError
from llmtools.model import PackedRows, load_model
from llmtools.train import loop
from llmtools.train.pretrain import PretrainInputs, pretrain
from llmtools.train.settings import TrainSettings
from llmtools.train.watch import StopSignals
from tiny_packed import write_config, write_packed
from toy_tokenizer import toy_tokenizer

SETTINGS = TrainSettings(
    max_steps=4,
    batch_size=6,
    learning_rate=3e-3,
    min_lr_ratio=0.1,
    lr_schedule="cosine",
    warmup_steps=1,
    weight_decay=0.1,
    dtype="fp32",
    seed=1,
    save_every=100,
)


def inputs(folder: Path, run: str = "run", **changes: object) -> PretrainInputs:
    """A request over folder/train and folder/model.json, both made on the first call."""
    if not (folder / "train").exists():
        write_packed(folder / "train")
        write_config(folder / "model.json")
    request = PretrainInputs(
        packed=folder / "train",
        val=None,
        model_config=folder / "model.json",
        init=None,
        tokenizer=None,
        output=folder / run,
        device="cpu",
        resume=True,
        force=False,
        resume_command="llm pretrain ...",
    )
    return replace(request, **changes)


def signal_everything(signals: StopSignals) -> None:
    """In place of StopSignals.__init__: every step is the last before a signal."""
    signals.requested, signals._previous = True, {}


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("batch_size", "grad_accum"), [(3, 2), (2, 3), (1, 6)])
def test_a_step_does_not_depend_on_how_it_is_cut_into_micro_batches(
    tmp_path, batch_size, grad_accum
):
    pretrain(inputs(tmp_path, "whole"), SETTINGS)
    cut = replace(SETTINGS, batch_size=batch_size, grad_accum=grad_accum)
    pretrain(inputs(tmp_path, "cut"), cut)
    for one, other in zip(metrics(tmp_path / "whole"), metrics(tmp_path / "cut"), strict=True):
        assert one["rows"] == other["rows"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-6)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)


def test_dividing_by_tokens_instead_of_labels_would_be_noticed(tmp_path, monkeypatch):
    """The broken twin of the test above."""
    pretrain(inputs(tmp_path, "whole"), SETTINGS)
    monkeypatch.setattr(loop, "max", lambda total, least: 15 * 6, raising=False)
    pretrain(inputs(tmp_path, "twin"), SETTINGS)
    one, other = metrics(tmp_path / "whole")[0], metrics(tmp_path / "twin")[0]
    assert other["grad_norm"] != pytest.approx(one["grad_norm"], rel=1e-3)


def test_loss_falls_and_the_validation_loss_is_the_mean_over_all_labels(tmp_path):
    val = write_packed(tmp_path / "val", num_rows=7, seed=1)
    settings = replace(SETTINGS, max_steps=30, eval_every=10)
    summary = pretrain(inputs(tmp_path, val=val), settings)
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 10, 20, 30]
    assert lines[0]["val_loss"] == pytest.approx(math.log(67), rel=0.02)
    assert summary["val_loss"] < lines[0]["val_loss"] - 0.3

    decoder = load_model(tmp_path / "run" / "step-000030")
    total, count = 0.0, 0
    tensors = load_file(val / "train-00000.safetensors")
    offsets = tensors["segment_offsets"].tolist()
    for row, ids in enumerate(tensors["input_ids"].long()):
        lengths = tensors["segments"][offsets[row] : offsets[row + 1]].tolist()
        for document in ids.split(lengths):
            if len(document) < 2:
                continue
            with torch.no_grad():
                hidden = decoder(document[:-1], PackedRows([len(document) - 1]))
                log_probs = decoder.logits(hidden).log_softmax(-1)
            total -= log_probs.gather(1, document[1:, None]).sum().item()
            count += len(document) - 1
    assert summary["val_loss"] == pytest.approx(total / count, rel=1e-6)


def test_a_document_never_sees_its_neighbour(tmp_path):
    inputs(tmp_path)
    settings = replace(SETTINGS, max_steps=2)
    pretrain(inputs(tmp_path), settings)
    decoder = load_model(tmp_path / "run" / "step-000002")
    ids = torch.randint(0, 67, (11,), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[:6] = (changed[:6] + 1) % 67
    with torch.no_grad():
        before = decoder.logits(decoder(ids, PackedRows([6, 5])))
        after = decoder.logits(decoder(changed, PackedRows([6, 5])))
        mixed = decoder.logits(decoder(changed, PackedRows([11])))
    assert torch.equal(before[6:], after[6:])
    assert not torch.equal(before[6:], mixed[6:])


def test_a_checkpoint_is_a_model_with_its_tokenizer_and_a_manifest(tmp_path):
    tokenizer = toy_tokenizer()
    tokenizer.save(tmp_path)
    size = tokenizer.vocab_size
    write_packed(tmp_path / "train", tokenizer=tokenizer.identity, vocab_size=size)
    write_config(tmp_path / "model.json", vocab_size=size)
    request = inputs(tmp_path, tokenizer=tmp_path / "tokenizer.json")
    pretrain(request, replace(SETTINGS, save_every=1, keep_last=2))
    assert sorted(p.name for p in (tmp_path / "run").glob("step-*")) == [
        "step-000003",
        "step-000004",
    ]
    step = tmp_path / "run" / "step-000004"
    assert load_file(step / "model.safetensors")["model.norm.weight"].dtype == torch.float32
    assert (step / "tokenizer.json").is_file()
    assert json.loads((step / "generation_config.json").read_text()) == {"eos_token_id": [0]}
    manifest = json.loads((step / "manifest.json").read_text())
    assert manifest["command"] == "pretrain" and manifest["counts"]["steps"] == 4
    assert {entry["path"] for entry in manifest["outputs"]} >= {
        "model.safetensors",
        "state/optimizer.safetensors",
    }


def test_every_mistake_is_in_one_message_before_anything_is_written(tmp_path):
    write_packed(tmp_path / "train", seq_len=40)
    write_packed(tmp_path / "val", tokenizer="other")
    write_config(tmp_path / "model.json", vocab_size=50)
    toy_tokenizer().save(tmp_path)
    request = inputs(tmp_path, val=tmp_path / "val", tokenizer=tmp_path / "tokenizer.json")
    with pytest.raises(UsageError) as refusal:
        pretrain(request, replace(SETTINGS, learning_rate=-1.0, warmup_steps=9))
    for mention in (
        "--learning-rate -1.0",
        "--warmup-steps 9",
        "vocabulary of 67, the model's vocab_size is 50",
        "seq_len 40, the model's max_position_embeddings is 32",
        "another tokenizer (other)",
        "is not the tokenizer of",
    ):
        assert mention in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_a_diverging_run_stops_and_keeps_its_last_checkpoint(tmp_path):
    settings = replace(SETTINGS, max_steps=60, learning_rate=1e18, save_every=1, max_grad_norm=1e30)
    with pytest.raises(AnswerIsNo, match="diverged"):
        pretrain(inputs(tmp_path), settings)
    lines = metrics(tmp_path / "run")
    latest = (tmp_path / "run" / "latest").read_text().strip()
    assert latest == f"step-{lines[-1]['step']:06d}"


def test_shards_without_a_label_are_refused_for_validation(tmp_path):
    val = write_packed(tmp_path / "val", num_rows=1, seq_len=3)
    with pytest.raises(InputError, match="no token to predict"):
        pretrain(inputs(tmp_path, val=val), SETTINGS)


def test_training_continues_from_another_model(tmp_path):
    pretrain(inputs(tmp_path), SETTINGS)
    request = inputs(tmp_path, "more", model_config=None, init=tmp_path / "run")
    pretrain(request, replace(SETTINGS, seed=2))
    first, last = metrics(tmp_path / "run"), metrics(tmp_path / "more")
    assert last[0]["loss"] < first[0]["loss"]


def test_a_finished_run_is_left_as_it_is(tmp_path):
    pretrain(inputs(tmp_path), SETTINGS)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    summary = pretrain(inputs(tmp_path), SETTINGS)
    assert summary["step"] == 4
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_resume_that_forgot_the_optimizer_would_be_noticed(tmp_path, monkeypatch):
    """The broken twin of the resume test."""

    def run(name: str) -> dict[str, torch.Tensor]:
        pretrain(inputs(tmp_path, name), SETTINGS)
        return load_file(tmp_path / name / "step-000004" / "model.safetensors")

    def stop_after_two(name: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(StopSignals, "__init__", lambda self: signal_everything(self))
            for _ in range(2):
                with pytest.raises(InterruptedRun, match="continue with"):
                    pretrain(inputs(tmp_path, name), SETTINGS)

    whole = run("whole")
    stop_after_two("same")
    assert all(torch.equal(whole[k], v) for k, v in run("same").items())
    stop_after_two("twin")
    monkeypatch.setattr("llmtools.train.state.load_optimizer", lambda *args: None)
    assert not all(torch.equal(whole[k], v) for k, v in run("twin").items())


def test_the_first_signal_asks_and_the_second_ends():
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit, match="143"):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before
