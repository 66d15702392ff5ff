"""A run that is killed at random moments ends in the bytes of one that was not."""

from __future__ import annotations

import json
import random
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from support import LLM, run_llm
from tiny_packed import write_config, write_packed

# Twice as many as the last stop needs, so that a busy machine cannot finish before the signal.
STEPS = 60


def arguments(folder: Path, run: str) -> list[str]:
    """Micro-batches of 2 rows, 3 of them a step, over 22 rows: epochs end in mid-step."""
    return [
        *("pretrain", str(folder / "train"), "--val", str(folder / "val")),
        *("--model-config", str(folder / "model.json"), "--max-steps", str(STEPS)),
        *("--batch-size", "2", "--grad-accum", "3", "--learning-rate", "3e-3"),
        *("--eval-every", "7", "--save-every", "3", "--keep-last", "2", "--seed", "5"),
        *("--dtype", "fp32", "--threads", "1", "-q", "-o", str(folder / run)),
    ]


def steps_logged(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") - 1 if file.exists() else 0


def stop_when(command: list[str], is_time: Callable[[], bool], signum: int) -> tuple[int, str]:
    """Start a run, send it a signal once `is_time()`; its return code and what it said."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while not is_time():
        assert process.poll() is None, "the run ended before it was stopped"
        assert time.monotonic() < end, "the run never came so far"
        time.sleep(0.0005)
    process.send_signal(signum)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said.decode()


def metrics(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in lines]


def contents(checkpoint: Path) -> dict[str, bytes]:
    """Every file of a checkpoint but its manifest, which holds times."""
    files = [p for p in checkpoint.rglob("*") if p.is_file() and p.name != "manifest.json"]
    return {str(p.relative_to(checkpoint)): p.read_bytes() for p in files}


def test_a_run_killed_and_interrupted_ends_bit_for_bit_like_one_that_was_not(tmp_path):
    write_packed(tmp_path / "train")
    write_packed(tmp_path / "val", num_rows=5, seed=1)
    write_config(tmp_path / "model.json")
    run_llm(*arguments(tmp_path, "whole"))
    whole, run = tmp_path / "whole", tmp_path / "stopped"
    command = [*LLM, *arguments(tmp_path, "stopped")]
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    print(f"kill times: seed {seed}")

    first, second = sorted(chance.sample(range(2, 24), 2))
    code, _ = stop_when(command, lambda: steps_logged(run) >= first, signal.SIGKILL)
    assert code == -signal.SIGKILL

    def is_saving() -> bool:
        return steps_logged(run) >= second and any(run.glob(".step-*.llmtools-tmp"))

    code, _ = stop_when(command, is_saving, signal.SIGKILL)
    assert code == -signal.SIGKILL
    third = chance.randrange(second + 4, 31)
    code, message = stop_when(command, lambda: steps_logged(run) >= third, signal.SIGINT)
    assert code == 5, message
    assert "continue with:" in message and "Traceback" not in message
    last_line = message.strip().splitlines()[-1]
    program, *again = shlex.split(last_line)
    assert program == "llm" and again == arguments(tmp_path, "stopped")
    run_llm(*again)

    assert [line["step"] for line in metrics(run)] == list(range(STEPS + 1))
    assert metrics(run) == metrics(whole)
    assert (run / "latest").read_text() == f"step-{STEPS:06d}\n"
    assert contents(run / f"step-{STEPS:06d}") == contents(whole / f"step-{STEPS:06d}")
    left = {p.name for p in run.iterdir()}
    kept = {f"step-{STEPS - 3:06d}", f"step-{STEPS:06d}"}
    assert left == kept | {"latest", "metrics.jsonl", "run.toml"}
