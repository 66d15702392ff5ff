"""Fine-tuning: what is trained, what is written, and that it continues exactly."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmtools.adapters.load import base_of, load_any, tokenizer_path_for
from llmtools.adapters.lora import LoraConfig
from llmtools.align.finetune import FinetuneInputs, finetune
from llmtools.errors import InputError, InterruptedRun, UsageError
from llmtools.model import load_model
from llmtools.tokenizer.chat import CHATML
from llmtools.tokenizer.load import load_tokenizer
from llmtools.train.run_directory import RunDirectory
from llmtools.train.watch import StopSignals
from support import assert_user_error, run_llm
from tiny_chat import save_base, write_chats

LORA = LoraConfig(r=4, alpha=8.0, dropout=0.1)


def inputs(folder: Path, run: str = "tuned", **changes: object) -> FinetuneInputs:
    """A request over folder/base and folder/chat.jsonl, both made on the first call."""
    if not (folder / "base").exists():
        save_base(folder / "base")
        write_chats(folder / "chat.jsonl")
    request = FinetuneInputs(
        model=folder / "base",
        data=[str(folder / "chat.jsonl")],
        val=[],
        val_fraction=0.25,
        lora=None,
        lora_target="all-linear",
        max_length=None,
        on_too_long="cut",
        epochs=None,
        max_steps=6,
        warmup_steps=None,
        learning_rate=1e-2,
        min_lr_ratio=0.0,
        lr_schedule="linear",
        weight_decay=0.0,
        max_grad_norm=1.0,
        batch_size=2,
        grad_accum=2,
        dtype="fp32",
        seed=1,
        eval_every=2,
        save_every=100,
        output=folder / run,
        device="cpu",
        resume=True,
        force=False,
        resume_command="llm finetune ...",
    )
    return replace(request, **changes)


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in lines]


def stop_after_every_step(monkeypatch: pytest.MonkeyPatch, request: FinetuneInputs) -> None:
    """Run all steps but the last, each in a run of its own that a signal ends."""

    def requested(signals: StopSignals) -> None:
        signals.requested, signals._previous = True, {}

    with monkeypatch.context() as patch:
        patch.setattr(StopSignals, "__init__", requested)
        assert request.max_steps is not None
        for _ in range(request.max_steps - 1):
            with pytest.raises(InterruptedRun):
                finetune(request)


def test_whole_model_training_makes_a_model_directory(tmp_path):
    summary = finetune(inputs(tmp_path))
    out = tmp_path / "tuned"
    assert {p.name for p in out.iterdir()} == {
        *("config.json", "model.safetensors", "generation_config.json", "manifest.json"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("run.toml", "metrics.jsonl"),
    }
    lines = metrics(out)
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 2, 4, 6]
    assert summary["val_loss"] == lines[-1]["val_loss"] < lines[0]["val_loss"] - 0.5
    assert load_tokenizer(out).chat_template == CHATML
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [0, 2]
    manifest = json.loads((out / "manifest.json").read_text())
    assert {entry["path"] for entry in manifest["outputs"]} >= {"config.json", "model.safetensors"}
    assert not any("state" in entry["path"] for entry in manifest["outputs"])
    read = {Path(entry["path"]).name for entry in manifest["inputs"]}
    assert read >= {"chat.jsonl", "model.safetensors", "config.json"}


def test_after_one_step_every_lora_b_has_moved_and_the_base_has_not(tmp_path):
    before = load_file(inputs(tmp_path).model / "model.safetensors")
    finetune(inputs(tmp_path, lora=LORA, max_steps=1))
    adapter = load_file(tmp_path / "tuned" / "adapter_model.safetensors")
    moved = {name: tensor for name, tensor in adapter.items() if ".lora_B." in name}
    assert len(moved) == 2 * 7
    assert all(bool(tensor.abs().max() > 0) for tensor in moved.values())
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight" in moved
    after = load_file(tmp_path / "base" / "model.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_an_adapter_directory_runs_as_a_model_also_after_both_were_moved(tmp_path):
    (tmp_path / "one").mkdir()
    finetune(inputs(tmp_path / "one", lora=LORA))
    merged = load_any(tmp_path / "one" / "tuned")
    base = load_model(tmp_path / "one" / "base")
    name = "model.layers.1.mlp.down_proj.weight"
    assert not torch.equal(merged.get_parameter(name), base.get_parameter(name))
    (tmp_path / "one").rename(tmp_path / "two")
    moved = tmp_path / "two" / "tuned"
    assert base_of(moved) == tmp_path / "two" / "base"
    assert torch.equal(load_any(moved).get_parameter(name), merged.get_parameter(name))
    assert tokenizer_path_for(moved) == moved


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_a_run_stopped_after_every_step_ends_like_one_that_was_not(tmp_path, monkeypatch, lora):
    """With dropout on, so that the random numbers of a step are the same too."""
    whole, stopped = (inputs(tmp_path, name, lora=lora) for name in ("whole", "stopped"))
    finetune(whole)
    stop_after_every_step(monkeypatch, stopped)
    finetune(stopped)
    assert metrics(whole.output) == metrics(stopped.output)
    weights = "model.safetensors" if lora is None else "adapter_model.safetensors"
    assert (whole.output / weights).read_bytes() == (stopped.output / weights).read_bytes()
    assert not list(stopped.output.glob("*step*"))


def test_an_unfinished_run_is_a_model_too(tmp_path, monkeypatch):
    request = inputs(tmp_path, lora=LORA)
    stop_after_every_step(monkeypatch, request)
    assert (request.output / "latest").read_text() == "step-000005\n"
    load_any(request.output)


@pytest.mark.parametrize("moment", ["link", "replace", "finish_publishing"])
def test_a_kill_while_the_model_is_put_in_place_costs_nothing(tmp_path, monkeypatch, moment):
    request = inputs(tmp_path, lora=LORA)
    finetune(replace(request, output=tmp_path / "whole"))
    calls = 0
    place = RunDirectory if moment == "finish_publishing" else os
    original = getattr(place, moment)

    def killed(*args: object, **keywords: object) -> object:
        nonlocal calls
        target = str(args[-1])
        into_run = moment == "finish_publishing" or (
            target.startswith(str(request.output))
            and (moment == "link" or target.endswith("adapter_config.json"))
        )
        calls += into_run
        if into_run and calls == 1:
            raise KeyboardInterrupt
        return original(*args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(place, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            finetune(request)
    load_any(request.output)
    finetune(request)
    assert not [p.name for p in request.output.iterdir() if "step" in p.name or p.name == "latest"]
    name = "adapter_model.safetensors"
    assert (request.output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_run_is_left_as_it_is_and_other_settings_are_refused(tmp_path):
    finetune(inputs(tmp_path))
    before = {p.name: p.read_bytes() for p in (tmp_path / "tuned").iterdir()}
    finetune(inputs(tmp_path))
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "tuned").iterdir()}
    with pytest.raises(UsageError, match=r"model\.adapter was none, now lora"):
        finetune(inputs(tmp_path, lora=LORA))
    write_chats(tmp_path / "chat.jsonl", copies=5)
    with pytest.raises(UsageError, match=r"data\.digest was"):
        finetune(inputs(tmp_path))
    finetune(inputs(tmp_path, force=True))


def test_epochs_set_the_number_of_steps(tmp_path):
    summary = finetune(
        inputs(tmp_path, max_steps=None, epochs=2.0, val_fraction=None, eval_every=None)
    )
    assert (summary["step"], summary["epoch"]) == (8, 2.0)


def test_mistakes_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match=r"--epochs or --max-steps; .*--val-fraction 1\.5"):
        finetune(inputs(tmp_path, epochs=1.0, val_fraction=1.5))
    with pytest.raises(UsageError, match=r"'q_porj'; did you mean 'q_proj'"):
        finetune(inputs(tmp_path, lora=LORA, lora_target="q_porj,v_proj"))
    short = inputs(tmp_path, max_length=5)
    with pytest.raises(InputError, match=r"chat\.jsonl:1: no answer is left"):
        finetune(short)
    finetune(inputs(tmp_path, "adapter", lora=LORA, max_steps=1))
    with pytest.raises(UsageError, match="is an adapter; adapt its base"):
        finetune(inputs(tmp_path, model=tmp_path / "adapter", lora=LORA))
    for output in ("base", "."):
        with pytest.raises(UsageError, match="holds the input"):
            finetune(inputs(tmp_path, output, force=True))
    assert not (tmp_path / "tuned").exists()


def test_the_command_trains_and_refuses_flags_without_effect(tmp_path):
    inputs(tmp_path)
    common = ["finetune", tmp_path / "base", tmp_path / "chat.jsonl", "-o", tmp_path / "out"]
    options = ["--adapter", "lora", "--lora-target", "q_proj,v_proj", "--val-fraction", "0.2"]
    done = run_llm(*common, *options, "--max-steps", "2", "--json")
    summary = json.loads(done.stdout)
    assert summary["step"] == 2 and summary["trained_parameters"] < summary["parameters"]
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (16, 32, 0.05)
    assert config["target_modules"] == ["q_proj", "v_proj"]
    refused = run_llm(*common, "--lora-r", "4", check=False)
    assert_user_error(refused, 2, "--lora-r", "--adapter lora")
