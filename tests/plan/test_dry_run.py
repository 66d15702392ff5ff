"""--dry-run: everything is checked, a plan is printed, nothing is written, and the plan is near."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.json
import pyarrow.parquet
import pytest

from in_process import run_here
from support import LLM, assert_user_error
from tiny_chat import save_base, write_chats
from tiny_packed import write_config, write_packed
from toy_tokenizer import save_toy

WORDS = "the capital of France is Paris and the capital of Italy is Rome they say ".split()


def write_documents(path: Path, count: int, words: int = 12) -> Path:
    """Documents that differ in two words."""
    with path.open("w") as out:
        for n in range(count):
            body = " ".join(WORDS[(n + i) % len(WORDS)] for i in range(words))
            out.write(json.dumps({"id": f"d{n}", "text": f"w{n} {body} v{n * 7}"}) + "\n")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of every command."""
    folder = tmp_path_factory.mktemp("plan")
    write_documents(folder / "docs.jsonl", 3000)
    pyarrow.parquet.write_table(
        pyarrow.json.read_json(folder / "docs.jsonl"), folder / "docs.parquet"
    )
    save_toy(folder / "tok.json")
    save_base(folder / "base", hidden_size=32)
    write_chats(folder / "chat.jsonl")
    write_packed(folder / "rows")
    write_config(folder / "config.json")
    run_here(
        "tokenize", folder / "docs.jsonl", "-t", folder / "tok.json", "-o", folder / "t.safetensors"
    )
    run_here("scorer", "train", folder / "docs.jsonl", "-o", folder / "given.safetensors")
    return folder


# name: the arguments, and the output that the command writes.
COMMANDS: dict[str, tuple[list[str], str | None]] = {
    "extract": (["extract", "chat.jsonl"], "out.jsonl"),
    "filter": (["filter", "docs.jsonl", "--rules", "length", "--min-doc-words", "3"], "out.jsonl"),
    "dedup": (["dedup", "docs.jsonl"], "out.jsonl"),
    "dedup of Parquet": (["dedup", "docs.parquet"], "out.jsonl"),
    "scorer": (["scorer", "train", "docs.jsonl"], "lm.safetensors"),
    "score": (["score", "docs.jsonl", "--with", "given.safetensors"], "out.jsonl"),
    "tokenizer": (["tokenizer", "train", "docs.jsonl", "--vocab-size", "300"], "new.json"),
    "extend": (["tokenizer", "extend", "tok.json", "docs.jsonl", "--add", "20"], "longer.json"),
    "extend model": (["tokenizer", "extend", "base", "docs.jsonl", "--add", "20"], "longer"),
    "compare": (["tokenizer", "compare", "tok.json", "docs.jsonl"], None),
    "tokenize": (["tokenize", "docs.jsonl", "-t", "tok.json"], "tokens.safetensors"),
    "detokenize": (["detokenize", "t.safetensors", "-t", "tok.json"], "out.jsonl"),
    "pack": (["pack", "t.safetensors", "--seq-len", "32"], "packed"),
    "pack documents": (["pack", "docs.jsonl", "-t", "tok.json", "--seq-len", "32"], "packed"),
    "pack best-fit": (
        ["pack", "t.safetensors", "--seq-len", "64", "--strategy", "best-fit"],
        "packed",
    ),
    "pretrain": (
        ["pretrain", "rows", "--model-config", "config.json", "--max-steps", "2"],
        "run",
    ),
    "finetune": (["finetune", "base", "chat.jsonl", "--max-steps", "2"], "tuned"),
    "lora": (["finetune", "base", "chat.jsonl", "--max-steps", "2", "--adapter", "lora"], "lora"),
    "quantize": (["quantize", "base", "--scheme", "Q8_0"], "out.gguf"),
    "eval": (
        [
            "eval",
            "base",
            "--tasks",
            "perplexity",
            "--documents",
            "docs.jsonl",
            "--limit-tokens",
            "500",
        ],
        "results",
    ),
    "generate": (["generate", "base", "The capital", "--max-tokens", "4"], None),
    "serve": (["serve", "base", "--port", "0"], None),
}
# Commands whose disk is known from formats, not from samples or upper bounds.
EXACT_DISK = ("pack", "pretrain", "quantize", "tokenize")


def arguments(place: Path, name: str, output: Path | None = None) -> list[str]:
    words, out = COMMANDS[name]
    known = {entry.name for entry in place.iterdir()}
    line = [str(place / word) if word in known else word for word in words]
    if out is not None:
        line += ["-o", str(output or place / "none" / out)]
    return line


def plan_of(place: Path, name: str, *extra: str) -> dict[str, Any]:
    done = run_here(*arguments(place, name), *extra, "--dry-run", "--json")
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def tree(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_plan_says_memory_disk_and_time_and_writes_nothing(name, place, tmp_path):
    state, temporary = tmp_path / "state", tmp_path / "tmp"
    temporary.mkdir()
    before = tree(place)
    env = {"XDG_STATE_HOME": str(state), "TMPDIR": str(temporary)}
    done = run_here(*arguments(place, name), "-n", "--json", env=env)
    plan = json.loads(done.stdout)
    assert {"memory_bytes", "disk_bytes", "time_s", "basis", "outputs", "facts"} <= plan.keys()
    assert plan["memory_bytes"] > 1e6
    assert plan["disk_bytes"] >= 0
    if name != "serve":
        assert plan["time_s"] > 0
    assert all(plan["basis"].values())
    assert tree(place) == before
    assert not state.exists()
    assert not [p for p in temporary.rglob("*") if p.is_file()]


def test_a_plan_for_people_labels_every_number_an_estimate(place):
    text = run_here(*arguments(place, "dedup"), "-n").stdout.decode()
    assert text.count("(estimate: ") == 3
    assert "none/out.jsonl" in text


# A process of its own between the tests and the run: a child's peak begins with its parent's.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_bytes(line: list[str]) -> int:
    """The most memory that a run of the real program held."""
    command = [sys.executable, "-c", MEASURE, *LLM, "-q", *line]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    code, peak = subprocess.run(command, capture_output=True, env=env, check=True).stdout.split()
    assert code == b"0"
    return int(peak) * 1024


def stored_bytes(output: Path) -> int:
    """Bytes of the data in an output, without what describes it."""
    files = [output] if output.is_file() else [p for p in output.rglob("*") if p.is_file()]
    about = ("manifest.json", ".drops", "tokenizer.json", "run.toml", "metrics.jsonl")
    return sum(f.stat().st_size for f in files if not f.name.endswith(about))


@pytest.mark.parametrize("name", [n for n in COMMANDS if n not in ("serve", "finetune", "lora")])
def test_a_real_run_takes_what_its_plan_says(name, place, tmp_path):
    plan = plan_of(place, name)
    output = tmp_path / "out"
    if COMMANDS[name][1] is not None:
        output = tmp_path / COMMANDS[name][1]
    peak = peak_bytes(arguments(place, name, output))
    if peak > 2 * plan["memory_bytes"]:  # The first use of a kernel has its compiler in memory.
        output = output.with_name(f"again-{output.name}")
        peak = peak_bytes(arguments(place, name, output))
    assert peak / 2 < plan["memory_bytes"] < peak * 2, (peak, plan)
    if name in EXACT_DISK:
        assert stored_bytes(output) == pytest.approx(plan["disk_bytes"], rel=0.1)


def test_memory_of_dedup_grows_with_the_documents_as_planned(tmp_path):
    few = write_documents(tmp_path / "few.jsonl", 2000, words=6)
    many = write_documents(tmp_path / "many.jsonl", 200_000, words=6)
    plans, peaks = [], []
    for file in (few, many):
        line = ["dedup", str(file), "-o", str(tmp_path / f"out-{file.name}")]
        plans.append(json.loads(run_here(*line, "-n", "--json").stdout)["memory_bytes"])
        peaks.append(peak_bytes(line))
    planned, real = plans[1] - plans[0], peaks[1] - peaks[0]
    assert real / 2 < planned < real * 2, (planned, real)


def test_memory_of_training_grows_with_the_batch_as_planned(place, tmp_path):
    config = write_config(
        tmp_path / "wide.json", hidden_size=128, intermediate_size=512, num_hidden_layers=4
    )
    plans, peaks = [], []
    for size in (1, 256):
        line = ["pretrain", str(place / "rows"), "--model-config", str(config), "--max-steps", "1"]
        line += ["--dtype", "fp32", "--batch-size", str(size), "-o", str(tmp_path / f"run{size}")]
        plans.append(json.loads(run_here(*line, "-n", "--json").stdout)["memory_bytes"])
        peaks.append(peak_bytes(line))
    planned, real = plans[1] - plans[0], peaks[1] - peaks[0]
    assert real / 2 < planned < real * 2, (planned, real)


@pytest.mark.parametrize("name", [n for n, (_, out) in COMMANDS.items() if out is not None])
def test_an_output_that_exists_is_refused_as_in_a_real_run(name, place, tmp_path):
    output = tmp_path / str(COMMANDS[name][1])
    if output.suffix:
        output.write_text("kept")
    else:
        output.mkdir()
        (output / "kept").write_text("kept")
    line = arguments(place, name, output)
    planned, real = run_here(*line, "-n"), run_here(*line)
    assert planned.returncode == real.returncode == 2
    assert planned.stderr == real.stderr
    assert planned.stdout == b""


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (["filter", "nowhere.jsonl"], 3),
        (["filter", "bad.jsonl"], 3),
        (["dedup", "docs.jsonl", "--n-grams", "0"], 2),
        (["dedup", "docs.jsonl", "-o", "base"], 2),
        (["tokenize", "docs.jsonl", "-t", "bad.jsonl"], 3),
        (["detokenize", "docs.jsonl", "-t", "tok.json"], 3),
        (["detokenize", "t.safetensors", "-t", "other.json"], 3),
        (["pack", "docs.jsonl", "--seq-len", "8", "-o", "x"], 2),
        (["pack", "t.safetensors", "-t", "other.json", "--seq-len", "8", "-o", "x"], 3),
        (["tokenizer", "train", "docs.jsonl", "--vocab-size", "9", "-o", "x"], 2),
        (["tokenizer", "extend", "tok.json", "docs.jsonl", "--add", "0", "-o", "x"], 2),
        (["tokenizer", "extend", "base", "docs.jsonl", "--add", "9", "-o", "rows"], 2),
        (["tokenizer", "compare", "tok.json", "bad.jsonl"], 3),
        (["pretrain", "rows", "--max-steps", "1", "-o", "x"], 2),
        (["pretrain", "base", "--model-config", "config.json", "--max-steps", "1", "-o", "x"], 3),
        (["finetune", "base", "docs.jsonl", "-o", "x"], 3),
        (["finetune", "base", "chat.jsonl", "--epochs", "1", "--max-steps", "1", "-o", "x"], 2),
        (["quantize", "rows", "-o", "x.gguf"], 3),
        (
            [
                "eval",
                "base",
                "--tasks",
                "perplexity",
                "--documents",
                "docs.jsonl",
                "--context",
                "1",
            ],
            2,
        ),
        (["generate", "base", "a", "--temperature", "-1"], 2),
        (["generate", "nowhere", "a"], 3),
        (["serve", "base", "--device", "cuda:77"], 4),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else str(value),
)
def test_bad_input_ends_a_plan_as_it_ends_a_run(line, code, place, tmp_path):
    (tmp_path / "bad.jsonl").write_text("no json\n")
    save_toy(tmp_path / "other.json", pattern="gpt4")
    for name in (
        "docs.jsonl",
        "base",
        "tok.json",
        "t.safetensors",
        "rows",
        "chat.jsonl",
        "config.json",
    ):
        (tmp_path / name).symlink_to(place / name)
    planned = run_here(*line, "-n", cwd=tmp_path)
    assert_user_error(planned, code, "error: ")
    real = run_here(*line, cwd=tmp_path)
    assert real.returncode == code
    assert planned.stderr == real.stderr


def test_what_a_pipe_holds_is_unknown_and_never_guessed():
    for words in (["dedup"], ["filter"], ["pack", "--seq-len", "8", "-o", "nowhere"]):
        done = run_here(*words, "-n", "--json", *(["-o", "nowhere"] if "-o" not in words else []))
        plan = json.loads(done.stdout)
        assert plan["disk_bytes"] is None and plan["time_s"] is None
        assert plan["basis"]["disk"] == "unknown (stdin)"
    assert "time: unknown (stdin)" in run_here("dedup", "-n").stdout.decode()


def test_a_compressed_input_counts_with_the_size_its_frames_state(place, tmp_path):
    packed = tmp_path / "docs.jsonl.zst"
    run_here(
        "filter", place / "docs.jsonl", "--rules", "length", "--min-doc-words", "1", "-o", packed
    )
    plans = [
        json.loads(run_here("dedup", name, "-o", tmp_path / "x", "-n", "--json").stdout)
        for name in (place / "docs.jsonl", packed)
    ]
    assert plans[0]["facts"]["input_bytes"] == plans[1]["facts"]["input_bytes"]
    assert packed.stat().st_size < plans[1]["facts"]["input_bytes"] / 2


def test_a_run_that_is_there_is_continued_or_refused_in_a_plan_as_in_a_run(place, tmp_path):
    line = arguments(place, "pretrain", tmp_path / "run")
    run_here(*line)
    before = tree(tmp_path)
    same = run_here(*line, "-n", "--json")
    assert json.loads(same.stdout)["command"] == "pretrain"
    for extra in (["--seed", "5"], ["--no-resume"]):
        planned, real = run_here(*line, *extra, "-n"), run_here(*line, *extra)
        assert_user_error(planned, 2, str(tmp_path / "run"))
        assert planned.stderr == real.stderr
    assert tree(tmp_path) == before


def test_an_adapter_is_planned_with_its_base_and_not_merged(place, tmp_path):
    adapter, temporary = tmp_path / "adapter", tmp_path / "tmp"
    temporary.mkdir()
    assert run_here(*arguments(place, "lora", adapter)).returncode == 0
    env = {"TMPDIR": str(temporary)}
    output = tmp_path / "out.gguf"
    planned = run_here("quantize", adapter, "-o", output, "-n", "--json", env=env)
    run_here("quantize", adapter, "-o", output)
    plan = json.loads(planned.stdout)
    assert plan["disk_bytes"] == pytest.approx(output.stat().st_size, rel=0.1)
    assert list(temporary.iterdir()) == []
    assert run_here("generate", adapter, "hello", "-n").returncode == 0
