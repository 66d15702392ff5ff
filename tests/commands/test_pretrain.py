"""`llm pretrain` as a user runs it."""

from __future__ import annotations

import json

from support import assert_user_error, run_llm
from tiny_packed import write_config, write_packed


def test_a_run_from_a_config_file_reports_itself_as_json(tmp_path):
    write_packed(tmp_path / "train")
    write_config(tmp_path / "model.json")
    done = run_llm(
        *("pretrain", "train", "--val", "train", "--model-config", "model.json", "--json"),
        *("--max-steps", "3", "--batch-size", "4", "--dtype", "bf16", "-o", "run"),
        cwd=tmp_path,
    )
    summary = json.loads(done.stdout)
    assert (summary["step"], summary["tokens"]) == (3, 3 * 4 * 16)
    assert summary["model"] == "run/step-000003" and summary["val_loss"] > 0
    assert b"parameters" in done.stderr and b"Traceback" not in done.stderr
    assert b"\r" not in done.stderr, "a progress bar although stderr is no terminal"


def test_what_cannot_be_trained_is_refused_with_one_message(tmp_path):
    write_config(tmp_path / "model.json")
    common = ["--model-config", "model.json", "--max-steps", "3", "-o", "run"]
    missing = run_llm("pretrain", "nowhere", *common, check=False, cwd=tmp_path)
    assert_user_error(missing, 3, "nowhere", "llm pack")
    write_packed(tmp_path / "train", seq_len=40)
    refused = run_llm("pretrain", "train", *common, check=False, cwd=tmp_path)
    assert_user_error(refused, 2, "seq_len 40", "max_position_embeddings is 32")
    both = run_llm("pretrain", "train", *common, "--init", "x", check=False, cwd=tmp_path)
    assert_user_error(both, 2, "--model-config", "--init")
    assert not (tmp_path / "run").exists()
