"""`llm pack --workers`: the rows of one process, from units that outlive a kill."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from shard_runs import done_units, wait_until
from support import LLM, assert_user_error, run_llm

WORDS = [f"word{number}" for number in range(900)]
IN_UNITS = ["--workers", "2", "--shard-bytes", "12K"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of very different lengths, some without an id, and a tokenizer with BOS."""
    folder = tmp_path_factory.mktemp("made")
    source = random.Random(4)
    with open(folder / "docs.jsonl", "w") as out:
        for number in range(250):
            text = " ".join(source.choices(WORDS, k=int(source.paretovariate(0.9) * 8) % 700))
            out.write(json.dumps({"text": text} | ({"id": f"d{number}"} if number % 2 else {})))
            out.write("\n")
    train = ["tokenizer", "train", "docs.jsonl", "--vocab-size", "400", "-o", "tok.json"]
    run_llm(*train, "--special-tokens", "<|endoftext|>,<s>", cwd=folder)
    run_llm("tokenize", "docs.jsonl", "-t", "tok.json", "-o", "t.safetensors", cwd=folder)
    return folder


def shards(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.glob("train-*.safetensors"))]


def pack(made: Path, output: Path, *flags: str) -> dict[str, object]:
    line = ["pack", "docs.jsonl", "-t", "tok.json", "--seq-len", "64", "--json", *flags]
    found: dict[str, object] = json.loads(run_llm(*line, "-o", output, cwd=made).stdout)
    return found


@pytest.mark.parametrize(
    "flags",
    [
        ["--strategy", "best-fit", "--buffer", "2000"],
        ["--strategy", "bos-bestfit", "--shuffle", "--epochs", "2"],
        ["--fim-rate", "0.5", "--fim-tokens", "<s>,<|endoftext|>,word"],
    ],
)
def test_the_rows_are_those_of_one_process(made: Path, tmp_path: Path, flags: list[str]) -> None:
    alone = pack(made, tmp_path / "alone", *flags)
    together = pack(made, tmp_path / "together", *flags, *IN_UNITS)
    assert shards(tmp_path / "together") == shards(tmp_path / "alone") != []
    assert together == alone
    assert not list(tmp_path.glob(".*"))


def test_frames_are_packed_by_one_unit_which_is_said(made: Path, tmp_path: Path) -> None:
    line = ["pack", made / "t.safetensors", "--seq-len", "64", "-o"]
    run_llm(*line, tmp_path / "alone")
    done = run_llm(*line, tmp_path / "together", *IN_UNITS)
    assert b"so one unit" in done.stderr
    assert shards(tmp_path / "together") == shards(tmp_path / "alone") != []


@pytest.mark.parametrize("at", [1, 4])
def test_a_killed_run_goes_on_where_it_was(made: Path, tmp_path: Path, at: int) -> None:
    line = ["pack", "docs.jsonl", "-t", "tok.json", "--seq-len", "64", "--shuffle", "-o"]
    run_llm(*line, tmp_path / "whole", cwd=made)
    line += [str(tmp_path / "rows"), "--work-dir", str(tmp_path / "work"), "--shard-bytes", "12K"]
    process = subprocess.Popen(
        [*LLM, *line], cwd=made, start_new_session=True, stderr=subprocess.PIPE
    )
    wait_until(lambda: done_units(tmp_path / "work") >= at, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=100)
    before = done_units(tmp_path / "work")
    assert before >= at
    assert not (tmp_path / "rows").exists()
    run_llm(*line, cwd=made, timeout=300)
    assert shards(tmp_path / "rows") == shards(tmp_path / "whole") != []
    ledger = tmp_path / "work" / "ledger.jsonl"
    events = [json.loads(one) for one in ledger.read_bytes().splitlines()]
    finished = [event["unit"] for event in events if event["event"] == "done"]
    assert len(finished) == len(set(finished)) > before


def test_what_rows_cannot_be_is_said_before_documents_are_encoded(
    made: Path, tmp_path: Path
) -> None:
    line = ["pack", made / "docs.jsonl", "-t", made / "tok.json", *IN_UNITS, "-o", "rows"]
    flags = ["--seq-len", "64", "--work-dir", "work", "--buffer", "9"]
    done = run_llm(*line, *flags, "--strategy", "best-fit", cwd=tmp_path, check=False)
    assert_user_error(done, 2, "--buffer 9")
    assert done_units(tmp_path / "work") == 0
    assert not (tmp_path / "rows").exists()
