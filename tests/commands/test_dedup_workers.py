"""dedup in units: whoever signs and applies, the bytes are those of one process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from shard_runs import needs_ray, slurm
from support import LLM, assert_user_error, run_llm

UNITS = ("--shard-bytes", "3K", "--workers", "2")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies near and exact, a file of nothing but copies, malformed lines, and no ids."""
    draw = random.Random(3)
    texts = [" ".join(draw.choices("abcdefghijklmnop", k=40)) for _ in range(25)]
    folder = tmp_path_factory.mktemp("corpus") / "in"
    folder.mkdir()
    for number in range(5):
        lines = []
        for n in range(40):
            text = draw.choice(texts) + draw.choice(["", " and", " and a tail of more words"])
            record = {"text": text, "metadata": {"q": draw.randrange(9)}}
            lines.append(json.dumps(record if n % 3 else {"id": f"{number}-{n}", **record}))
            if n % 17 == 5:
                lines.append(draw.choice(["{", '{"text": 5}', "", "[]"]))
        (folder / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "6.jsonl").write_text(json.dumps({"id": "copy", "text": texts[0]}) + "\n")
    return folder


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--cluster-ids", "--rejects", "{}.no"),
        ("--keep", "metadata.q", "--rejects", "{}.no", "--memory", "256M"),
        ("--dialect", "datatrove", "--preset", "fineweb"),
    ],
)
def test_units_together_are_one_run(corpus, tmp_path, flags):
    outputs = []
    for name, units in (("alone", ()), ("units", UNITS)):
        given = [flag.format(tmp_path / name) for flag in flags]
        out = tmp_path / f"{name}.jsonl"
        done = run_llm("dedup", corpus, "--on-error", "skip", "-o", out, "--json", *given, *units)
        rejects = Path(f"{tmp_path / name}.no")
        dropped = rejects.read_bytes() if rejects.exists() else b""
        outputs.append((out.read_bytes(), dropped, json.loads(done.stdout)))
    alone, units = outputs
    assert alone == units
    assert alone[2]["documents_skipped"] > 0 and alone[2]["dropped_near"] > 0
    assert bool(alone[1]) == ("--rejects" in flags)


def test_a_cluster_is_cut_from_the_whole_not_from_a_part(corpus, tmp_path):
    """Parts that were deduplicated each for itself would keep more."""
    whole = run_llm("dedup", corpus, "--on-error", "skip", *UNITS, "-o", tmp_path / "a").stderr
    parts = [
        run_llm("dedup", path, "--on-error", "skip", "-o", tmp_path / path.name, "--json").stdout
        for path in sorted(corpus.iterdir())
    ]
    kept = len((tmp_path / "a").read_bytes().splitlines())
    assert whole == b"" or b"Traceback" not in whole
    assert kept < sum(json.loads(part)["documents_kept"] for part in parts)


def test_a_slurm_array_deduplicates_together(corpus, tmp_path):
    run_llm("dedup", corpus, "--on-error", "skip", "-o", tmp_path / "alone.jsonl")
    line = ["dedup", corpus, "--on-error", "skip", "--shard-bytes", "3K", "--executor", "slurm"]
    line += ["--workers", "1", "--work-dir", tmp_path / "work", "-o", tmp_path / "out.jsonl"]
    tasks = [
        subprocess.Popen([*LLM, *map(str, line)], env=os.environ | slurm(index, 3), stderr=-1)
        for index in range(3)
    ]
    said = [task.communicate(timeout=300)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0, 0], said
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


@needs_ray
def test_ray_deduplicates_together(corpus, tmp_path):
    run_llm("dedup", corpus, "--on-error", "skip", "-o", tmp_path / "alone.jsonl")
    flags = ("--executor", "ray", "--workers", "2", "--shard-bytes", "3K", "--on-error", "skip")
    run_llm("dedup", corpus, *flags, "-o", tmp_path / "out.jsonl", timeout=300)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_a_killed_run_goes_on(corpus, tmp_path):
    """Killed at moments that fall into signing, linking, applying and joining."""
    flags = ("dedup", corpus, "--on-error", "skip", "--rejects", tmp_path / "no")
    run_llm(*flags, "-o", tmp_path / "alone.jsonl")
    alone = (tmp_path / "no").read_bytes()
    chance = random.Random(5)
    line = [*flags, *UNITS, "--work-dir", tmp_path / "work", "-o", tmp_path / "out.jsonl", "-f"]
    for _ in range(5):
        process = subprocess.Popen([*LLM, *map(str, line)], stderr=-1, start_new_session=True)
        time.sleep(chance.uniform(0.3, 2.5))
        try:
            os.killpg(process.pid, 9)
        except ProcessLookupError:
            pass
        process.communicate(timeout=100)
    run_llm(*line)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert (tmp_path / "no").read_bytes() == alone


def test_what_cannot_be_divided_runs_as_one_unit_or_is_refused(corpus, tmp_path):
    out = tmp_path / "out.jsonl"
    line = ("dedup", corpus, "--on-error", "skip", *UNITS, "-o", out)
    done = run_llm(*line, "--method", "exact", "-f")
    assert b"one unit" in done.stderr
    refused = run_llm(*line, "--explain", "copy", "-f", check=False)
    assert_user_error(refused, 2, "--explain has no place here")
    missing = run_llm(*line, "--keep", "metadata.nothing", "-f", check=False)
    assert_user_error(missing, 3, "no document has metadata.nothing")
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b"{\n")
    nothing = run_llm("dedup", empty, *line[2:-1], tmp_path / "x", check=False)
    assert_user_error(nothing, 3, "no documents in the input (1 malformed")
