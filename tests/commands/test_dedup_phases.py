"""dedup in phases: the shards' outputs, one after another, are those of one run."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from support import assert_user_error, run_llm


def write_corpus(folder: Path, num_files: int = 5) -> list[Path]:
    """Files of uneven length, with copies within and across them."""
    draw = random.Random(2)
    texts = [" ".join(draw.choices("abcdefghijklmnop", k=40)) for _ in range(30)]
    paths = []
    for number in range(num_files):
        records = []
        for n in range(4 + 9 * number):
            text = draw.choice(texts) + draw.choice(["", " and", " and a tail of more words"])
            fields = {"id": f"{number}-{n}", "text": text, "metadata": {"q": draw.randrange(9)}}
            records.append(json.dumps(fields) + "\n")
        paths.append(folder / f"part-{number}.jsonl")
        paths[-1].write_text("".join(records))
    return paths


def run_phases(paths: list[Path], work: Path, count: int, *flags: str) -> list[Path]:
    """All phases; returns the outputs of the shards that have one."""
    for phase in ("sign", "match"):
        for index in reversed(range(count)):
            place = ("--work-dir", work, "--shard", f"{index}/{count}")
            run_llm("dedup", *paths, "--phase", phase, *place, *flags)
    run_llm("dedup", *paths, "--phase", "cluster", "--work-dir", work, *flags)
    outputs = []
    for index in range(count):
        place = ("--work-dir", work, "--shard", f"{index}/{count}")
        output = work / f"out-{index}.jsonl"
        rejects = ("--rejects", work / f"rejects-{index}.jsonl")
        run_llm("dedup", *paths, "--phase", "apply", *place, *flags, *rejects, "-o", output)
        outputs.append(output)
    return outputs


@pytest.mark.parametrize(
    ("count", "flags"),
    [(1, ("--cluster-ids",)), (7, ("--keep", "metadata.q", "--memory", "256M"))],
)
def test_shards_together_are_one_run(tmp_path: Path, count: int, flags: tuple[str, ...]) -> None:
    paths = write_corpus(tmp_path)
    rejects = tmp_path / "rejects.jsonl"
    whole = run_llm("dedup", *paths, "--rejects", rejects, *flags).stdout
    outputs = run_phases(paths, tmp_path / "work", count, *flags)
    assert b"".join(path.read_bytes() for path in outputs) == whole
    parts = [tmp_path / "work" / f"rejects-{index}.jsonl" for index in range(count)]
    assert b"".join(path.read_bytes() for path in parts) == rejects.read_bytes()


def test_a_phase_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    paths = write_corpus(tmp_path)
    line = ("dedup", *paths, "--phase", "sign", "--work-dir", tmp_path / "work")
    assert json.loads(run_llm(*line, "--json").stdout)["documents"] == 110
    assert b"done before" in run_llm(*line).stderr


def test_phases_refuse_what_does_not_fit(tmp_path: Path) -> None:
    paths = write_corpus(tmp_path, 2)
    work = ("--work-dir", tmp_path / "work")

    def fails(code: int, mention: str, *args: str | Path) -> None:
        assert_user_error(run_llm("dedup", *args, check=False), code, mention)

    fails(2, "needs --work-dir", *paths, "--phase", "sign")
    fails(2, "needs -o", *paths, *work)
    fails(2, "name regular files", "-", "--phase", "sign", *work)
    fails(2, "write I/N", *paths, "--phase", "sign", *work, "--shard", "2/2")
    run_llm("dedup", *paths, "--phase", "sign", *work, "--shard", "0/2")
    fails(3, "not done for shards 1 of 2", *paths, "--phase", "match", *work, "--shard", "0/2")
    fails(2, "of other shards", *paths, "--phase", "sign", *work, "--shard", "1/3")
    fails(2, "of other inputs", paths[0], "--phase", "sign", *work, "--shard", "1/2")
    changed = (*paths, "--phase", "sign", *work, "--shard", "1/2", "--seed", "4")
    fails(2, "of other settings: seed was 1, now 4", *changed)
    run_llm("dedup", *paths, "--phase", "sign", *work, "--shard", "1/2")
    fails(3, "phase match is not done", *paths, "--phase", "cluster", *work)
    for index in range(2):
        run_llm("dedup", *paths, "--phase", "match", *work, "--shard", f"{index}/2")
    fails(3, "phase cluster is not done", *paths, "--phase", "apply", *work, "--shard", "0/2")
    run_llm("dedup", *paths, "--phase", "cluster", *work)
    data = paths[0].read_bytes()
    paths[0].write_bytes(data.replace(b"a", b"z", 1))
    fails(3, "changed since the phase sign", *paths, "--phase", "apply", *work, "--shard", "0/2")


def test_rejects_that_a_record_has_no_place_for_are_no_changed_input(tmp_path: Path) -> None:
    (path, *_) = write_corpus(tmp_path, 1)
    path.write_bytes(path.read_bytes() + b'{"text": "a text of its own", "metadata": 5}\n')
    line = ("dedup", path, "--work-dir", tmp_path / "work", "--on-error", "skip", "--phase")
    for phase in ("sign", "match", "cluster"):
        run_llm(*line, phase)
    out, rejects = tmp_path / "out.jsonl", tmp_path / "rejects.jsonl"
    refused = run_llm(*line, "apply", "-o", out, "--rejects", rejects, check=False)
    assert_user_error(refused, 3, "1 documents have a metadata that is no object")
    assert not out.exists() and not rejects.exists()
    run_llm(*line, "apply", "-o", out)
    assert out.read_bytes().endswith(b'"metadata": 5}\n')


def test_phases_are_planned_before_and_after_their_documents_are_counted(tmp_path: Path) -> None:
    paths = write_corpus(tmp_path, 6)
    work = tmp_path / "work"
    output = tmp_path / "out.jsonl"

    def plan(phase: str, *flags: str | Path) -> dict[str, Any]:
        shard = () if phase == "cluster" else ("--shard", "1/2")
        line = ("dedup", *paths, "--phase", phase, "--work-dir", work, *shard, *flags)
        return json.loads(run_llm(*line, "--dry-run", "--json").stdout)

    def plans() -> dict[str, dict[str, Any]]:
        return {
            "sign": plan("sign"),
            "match": plan("match"),
            "cluster": plan("cluster"),
            "apply": plan("apply", "-o", output),
        }

    before = plans()
    assert not work.exists() and not output.exists()
    outputs = run_phases(paths, work, 2)
    after = plans()
    assert not output.exists()
    counts = [path.read_bytes().count(b"\n") for path in paths]
    for phase, found in after.items():
        about = found["facts"]["documents_about"]
        # The second half in bytes: the last two files.
        assert about == sum(counts if phase in ("match", "cluster") else counts[-2:])
        assert before[phase]["facts"]["documents_about"] == pytest.approx(about, rel=0.1)
        assert 50e6 < found["memory_bytes"] < 80e6
    (signed,) = after["sign"]["outputs"]
    taken = sum(path.stat().st_size for path in Path(signed).iterdir() if path.is_file())
    assert after["sign"]["disk_bytes"] == pytest.approx(taken, rel=0.3)
    (clusters,) = after["cluster"]["outputs"]
    assert after["cluster"]["disk_bytes"] < Path(clusters).stat().st_size
    assert after["match"]["disk_bytes"] is None and "16 bytes" in after["match"]["basis"]["disk"]
    assert after["apply"]["disk_bytes"] >= outputs[1].stat().st_size
    refused = ("--phase", "apply", "--work-dir", work, "--shard", "1/2", "--dry-run")
    done = run_llm("dedup", *paths, *refused, "-o", outputs[1], check=False)
    assert_user_error(done, 2, "exists")
    done = run_llm("dedup", *paths, *refused, "--seed", 2, "-o", output, check=False)
    assert_user_error(done, 2, "seed was 1, now 2")
