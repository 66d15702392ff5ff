"""What damaged files once did, one test each; found by test_fuzz.py."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from in_process import run_here
from llmtools.engine.defaults import read_generation_defaults
from llmtools.errors import InputError, ResourceError
from llmtools.formats.block_codecs import dequantize
from llmtools.model.config import config_from_hf
from llmtools.model.load import empty_decoder, load_model
from llmtools.terminal import readable
from support import assert_user_error
from tiny_chat import save_base
from tiny_packed import CONFIG, write_config, write_packed


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", []),
        ("model_type", {}),
        ("hidden_size", "64"),
        ("num_hidden_layers", 2**31),
        ("vocab_size", 2**31),
        ("tie_word_embeddings", "no"),
        ("eos_token_id", {"a": 1}),
        ("eos_token_id", [None]),
        ("bos_token_id", 0.5),
        ("rope_theta", float("inf")),
        ("rms_norm_eps", True),
    ],
)
def test_a_config_with_a_value_of_another_kind_is_refused(key, value):
    with pytest.raises(InputError, match=key):
        config_from_hf(CONFIG | {key: value}, "config.json")


def test_generation_settings_with_an_odd_stop_id_are_refused(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [[1]]}')
    with pytest.raises(InputError, match="eos_token_id"):
        read_generation_defaults(tmp_path)


def test_a_config_that_lies_about_its_size_allocates_nothing(tmp_path):
    base = save_base(tmp_path / "base")
    config = base / "config.json"
    values = json.loads(config.read_text())
    for changes, word in (
        ({"num_hidden_layers": 9999}, "9999 layers"),
        ({"vocab_size": 2**31 - 1}, "shape"),
    ):
        config.write_text(json.dumps(values | changes))
        with pytest.raises(InputError, match=word):
            load_model(base)


def test_a_model_larger_than_the_machine_is_refused_before_it_is_allocated():
    config = config_from_hf(CONFIG | {"vocab_size": 2**31 - 1, "hidden_size": 2**20}, "x")
    with pytest.raises(ResourceError, match=r"the weights need .* GB"):
        empty_decoder(config, "cpu", torch.float32)


def test_a_place_of_another_step_is_refused(tmp_path):
    write_packed(tmp_path / "rows")
    config = write_config(tmp_path / "model.json")
    train = ("pretrain", tmp_path / "rows", "--model-config", config, "--save-every", "1",
             "--batch-size", "2", "-o", tmp_path / "run", "--max-steps")  # fmt: skip
    run_here(*train, "2", check=True)
    place = tmp_path / "run" / "step-000002" / "state" / "place.json"
    place.write_text('{"step": -1, "rows": 4, "tokens": 64}')
    assert_user_error(run_here(*train, "2"), 3, "place.json", "counts")
    place.write_text('{"step": 1, "rows": 4, "tokens": 64}')
    assert_user_error(run_here(*train, "2"), 3, "step 1 in step-000002")


def test_a_message_never_fills_the_screen_or_commands_the_terminal():
    shown = readable("tokens\n" + "x" * 9000 + "\x1b[2J\x00\ud800 é")
    assert len(shown) < 500 and shown.startswith("tokens\nxxx")
    assert "\\x1b[2J\\x00\\ud800 é" in shown or "more]" in shown
    assert readable("\x1b[2J\x00\ud800 é") == "\\x1b[2J\\x00\\ud800 é"


def test_stdout_loses_nothing_when_python_does_not_buffer_it(tmp_path):
    lines = "".join(json.dumps({"id": str(n), "text": "word " * 400}) + "\n" for n in range(800))
    (tmp_path / "d.jsonl").write_text(lines)
    argv = [sys.executable, "-u", "-m", "llmtools", "extract", str(tmp_path), "-q"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        record = json.loads(run.stdout.read())
    assert record["text"] == lines


def test_metrics_that_nest_without_end_are_one_message(tmp_path):
    write_packed(tmp_path / "rows")
    config = write_config(tmp_path / "model.json")
    run = ("pretrain", tmp_path / "rows", "--model-config", config, "--max-steps", "1",
           "--batch-size", "2", "-o", tmp_path / "run")  # fmt: skip
    run_here(*run, check=True)
    (tmp_path / "run" / "metrics.jsonl").write_text("[" * 100_000 + "]" * 100_000 + "\n")
    assert_user_error(run_here(*run), 3, "metrics.jsonl:1")
    assert_user_error(run_here("inspect", tmp_path / "run"), 3, "metrics.jsonl")


def test_weights_that_are_not_finite_print_no_warning():
    scale = np.full(1, np.inf, "<f2").tobytes()
    values = dequantize(np.frombuffer(scale + bytes(32), np.uint8), "Q8_0", (32,))
    assert np.isnan(values).all()
