"""`llm run`: the bytes of the shell's pipe, whatever happens on the way."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from support import LLM, assert_user_error, run_llm

WORDS = "the of and to in is was on for with as by at from data model page river stone".split()
FILTER = "filter --rules length --min-doc-words 20"


def text_of(source: random.Random) -> str:
    return " ".join(source.choice(WORDS) for _ in range(source.randrange(5, 120)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents with and without ids, some twice; a tree of files; a tokenizer."""
    folder = tmp_path_factory.mktemp("made")
    source = random.Random(5)
    texts = [text_of(source) for _ in range(300)]
    with open(folder / "docs.jsonl", "w") as out:
        for number, text in enumerate([*texts, *texts[:40]]):
            record = {"text": text} if number % 3 else {"id": f"d{number}", "text": text}
            out.write(json.dumps(record) + "\n")
    for number, text in enumerate(texts[:200]):
        path = folder / "site" / f"part{number % 4}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "more").mkdir()
    (folder / "more" / "last.md").write_text(" ".join(texts[:3]))
    train = ["tokenizer", "train", folder / "docs.jsonl", "--vocab-size", 300]
    run_llm(*train, "-o", folder / "tok.json")
    return folder


def piped(pipeline: str, folder: Path) -> None:
    """The same line through the shell."""
    line = " | ".join(f"{shlex.join(LLM)} -q {stage}" for stage in pipeline.split("|"))
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def run(pipeline: str, folder: Path, *flags: str | Path, check: bool = True, work: str = "work"):
    command = ["run", "--work-dir", work, "--shard-bytes", "10K", *flags, pipeline]
    return run_llm(*command, cwd=folder, check=check)


def tree(path: Path) -> dict[str, bytes]:
    """The content of an output, without manifests."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in files
        if file.is_file() and not file.name.endswith(("manifest.json", "drops"))
    }


def attempts(work: Path) -> Counter[str]:
    lines = (work / "ledger.jsonl").read_bytes().split(b"\n")
    found: Counter[str] = Counter()
    for line in lines:
        if line.startswith(b'{"event": "start"') and line.endswith(b"}"):
            found[json.loads(line)["unit"]] += 1
    return found


PIPES = {
    "to packed rows": (
        f"{FILTER} docs.jsonl | dedup | tokenize -t tok.json | pack --seq-len 64 -o out",
        "out",
    ),
    "documents without ids to frames": (
        f"{FILTER} docs.jsonl | tokenize -t tok.json -o out.safetensors",
        "out.safetensors",
    ),
    "a tree in one pass": (
        f"extract site more/*.md | {FILTER} | tokenize -t tok.json | detokenize -t tok.json"
        " -o out.jsonl",
        "out.jsonl",
    ),
    "compressed": (f"{FILTER} docs.jsonl | dedup -o out.jsonl.zst", "out.jsonl.zst"),
    "to a tokenizer": (
        f"{FILTER} docs.jsonl | tokenizer train --vocab-size 290 -o out.json",
        "out.json",
    ),
    "to a directory of frames": ("tokenize docs.jsonl -t tok.json -o out", "out"),
}


@pytest.mark.parametrize("name", PIPES)
def test_the_output_is_that_of_the_shells_pipe_for_any_number_of_workers(made, tmp_path, name):
    for item in made.iterdir():
        (tmp_path / item.name).symlink_to(item)
    pipeline, output = PIPES[name]
    piped(pipeline, tmp_path)
    expected = tree(tmp_path / output)
    # Two are enough to see that the number of workers does not matter.
    for workers in ("1", "3") if name in list(PIPES)[:2] else ("3",):
        done = run(pipeline, tmp_path, "--workers", workers, "-f", "--json", work=f"w{workers}")
        assert tree(tmp_path / output) == expected
        report = json.loads(done.stdout)
        assert report["units_run"] == report["units"] > 2
        assert set(attempts(tmp_path / f"w{workers}").values()) == {1}
    left = {path.name for path in (tmp_path / "w3").iterdir()}
    assert not any(Path(name).is_dir() for name in left)


def test_rejects_of_every_stage_are_put_together_in_order(made, tmp_path):
    for item in made.iterdir():
        (tmp_path / item.name).symlink_to(item)
    pipeline = f"{FILTER} --rejects r.jsonl docs.jsonl | dedup --rejects d.jsonl -o out.jsonl"
    piped(pipeline, tmp_path)
    expected = [tree(tmp_path / name) for name in ("r.jsonl", "d.jsonl", "out.jsonl")]
    assert all(expected)
    run(pipeline, tmp_path, "-f")
    assert [tree(tmp_path / name) for name in ("r.jsonl", "d.jsonl", "out.jsonl")] == expected


def test_a_finished_run_is_not_made_again_unless_its_output_is_gone(made, tmp_path):
    pipeline = f"{FILTER} {made}/docs.jsonl -o out.jsonl"
    run(pipeline, tmp_path)
    expected = (tmp_path / "out.jsonl").read_bytes()
    again = run(pipeline, tmp_path, "--json")
    assert b"done already" not in again.stdout
    assert json.loads(again.stdout)["units_run"] == 0
    assert b"is done already" in run(pipeline, tmp_path).stderr
    (tmp_path / "out.jsonl").unlink()
    assert json.loads(run(pipeline, tmp_path, "--json").stdout)["units_run"] > 2
    assert (tmp_path / "out.jsonl").read_bytes() == expected
    afresh = run(pipeline, tmp_path, "--json", "--no-resume", "-f")
    assert json.loads(afresh.stdout)["units_run"] > 2
    assert (tmp_path / "out.jsonl").read_bytes() == expected


def test_an_output_that_exists_is_refused_before_any_unit(made, tmp_path):
    (tmp_path / "out.jsonl").write_text("mine\n")
    done = run(f"{FILTER} {made}/docs.jsonl -o out.jsonl", tmp_path, check=False)
    assert_user_error(done, 2, "out.jsonl exists", "-f")
    assert (tmp_path / "out.jsonl").read_text() == "mine\n"
    assert not attempts(tmp_path / "work")


def wait_for(work: Path, units: int, process: subprocess.Popen[bytes]) -> None:
    """Until that many units were begun, or the run is over."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        if (work / "ledger.jsonl").exists() and sum(attempts(work).values()) >= units:
            return
        time.sleep(0.005)


def started(
    pipeline: str, folder: Path, *flags: str, shard_bytes: str = "6K"
) -> subprocess.Popen[bytes]:
    command = [*LLM, "run", "--work-dir", "work", "--shard-bytes", shard_bytes, *flags, pipeline]
    return subprocess.Popen(
        command, cwd=folder, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def kill_often(made: Path, folder: Path, kills: int, seed: int) -> None:
    """Kill a run of three workers at random moments; the rerun has the bytes of a whole one."""
    source = random.Random(seed)
    pipeline = f"{FILTER} {made}/docs.jsonl | dedup | tokenize -t {made}/tok.json -o out"
    run_llm("run", "--work-dir", "whole", "--shard-bytes", "6K", "-q", pipeline, cwd=folder)
    expected = tree(folder / "out")
    units = len(attempts(folder / "whole"))
    subprocess.run(["rm", "-r", str(folder / "out"), str(folder / "whole")], check=True)
    begun = 0
    for _ in range(kills):
        process = started(pipeline, folder, "--workers", "3")
        wait_for(folder / "work", begun + source.randrange(1, units // kills + 3), process)
        time.sleep(source.random() * 0.05)
        if source.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            # The workers find out by themselves that they are alone.
            process.kill()
        process.communicate(timeout=100)
        begun = sum(attempts(folder / "work").values())
    run_llm("run", "--work-dir", "work", "--shard-bytes", "6K", "-q", pipeline, cwd=folder)
    assert tree(folder / "out") == expected
    found = attempts(folder / "work")
    assert len(found) == units
    assert sum(found.values()) <= units + 3 * kills


def test_killed_anywhere_it_goes_on_and_redoes_at_most_one_unit_a_worker(made, tmp_path):
    kill_often(made, tmp_path, kills=3, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 12))
def test_killed_anywhere_many_times(made, tmp_path, seed):
    kill_often(made, tmp_path, kills=8, seed=seed)


def test_a_worker_that_is_killed_ends_the_run_with_the_units_name(made, tmp_path):
    pipeline = f"{FILTER} {made}/docs.jsonl -o out.jsonl"
    process = started(pipeline, tmp_path, "--workers", "1", shard_bytes="1K")
    wait_for(tmp_path / "work", 1, process)
    entry = json.loads((tmp_path / "work" / "ledger.jsonl").read_bytes().split(b"\n")[0])
    os.kill(entry["pid"], signal.SIGKILL)
    _, message = process.communicate(timeout=100)
    assert process.returncode == 4, message
    assert b"signal 9" in message
    assert b"filter, unit" in message
    run_llm("run", "--work-dir", "work", "--shard-bytes", "1K", pipeline, cwd=tmp_path)
    assert max(attempts(tmp_path / "work").values()) <= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_says_how_to_go_on(made, tmp_path, number):
    pipeline = f"{FILTER} {made}/docs.jsonl -o out.jsonl"
    process = started(pipeline, tmp_path, "--workers", "2", shard_bytes="1K")
    wait_for(tmp_path / "work", 2, process)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.terminate()
    _, message = process.communicate(timeout=100)
    assert process.returncode == 5, message
    line = message.decode().strip().splitlines()[-1]
    assert line.strip().startswith("llm run --work-dir work")
    assert b"Traceback" not in message
    assert not (tmp_path / "out.jsonl").exists()
    run_llm(*shlex.split(line)[1:], cwd=tmp_path)
    assert (tmp_path / "out.jsonl").stat().st_size
    assert sum(attempts(tmp_path / "work").values()) <= len(attempts(tmp_path / "work")) + 2


def test_another_setting_tokenizer_or_input_is_refused_with_what_changed(made, tmp_path):
    for name in ("docs.jsonl", "tok.json"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    pipeline = f"{FILTER} docs.jsonl | tokenize -t tok.json -o out"
    run(pipeline, tmp_path)
    other = pipeline.replace("20", "30")
    assert_user_error(
        run(other, tmp_path, check=False), 2, "min_doc_words was 20, now 30", "--work-dir"
    )
    assert_user_error(run(pipeline, tmp_path, "--shard-bytes", "9K", check=False), 2, "shard_bytes")
    train = ["tokenizer", "train", "docs.jsonl", "--vocab-size", 290, "-o", "tok.json", "-f"]
    run_llm(*train, cwd=tmp_path)
    assert_user_error(run(pipeline, tmp_path, check=False), 2, "contents of tok.json was")
    (tmp_path / "tok.json").write_bytes((made / "tok.json").read_bytes())
    (tmp_path / "docs.jsonl").touch()
    run(pipeline, tmp_path)
    with open(tmp_path / "docs.jsonl", "a") as more:
        more.write('{"text": "one more"}\n')
    assert_user_error(run(pipeline, tmp_path, check=False), 3, "docs.jsonl has changed")


def test_a_changed_tree_is_refused(made, tmp_path):
    subprocess.run(["cp", "-r", str(made / "site"), str(tmp_path)], check=True)
    pipeline = "extract site -o out.jsonl"
    run(pipeline, tmp_path)
    (tmp_path / "site" / "new.txt").write_text("a new file")
    assert_user_error(run(pipeline, tmp_path, check=False), 3, "site/new.txt is new")


def test_two_runs_in_one_work_directory_are_refused(made, tmp_path):
    pipeline = f"{FILTER} {made}/docs.jsonl | dedup -o out.jsonl"
    process = started(pipeline, tmp_path, "--workers", "1")
    wait_for(tmp_path / "work", 1, process)
    # It holds still, so that it cannot be through before the second one looks.
    os.killpg(process.pid, signal.SIGSTOP)
    second = run_llm(
        "run", "--work-dir", "work", "--shard-bytes", "6K", pipeline, cwd=tmp_path, check=False
    )
    os.killpg(process.pid, signal.SIGCONT)
    assert_user_error(second, 4, "another run", "work")
    _, message = process.communicate(timeout=100)
    assert process.returncode == 0, message


def test_a_failing_unit_ends_the_run_with_its_own_message_and_code(made, tmp_path):
    data = (made / "docs.jsonl").read_bytes().splitlines(keepends=True)
    data[200] = b'{"text": 5}\n'
    (tmp_path / "bad.jsonl").write_bytes(b"".join(data))
    done = run(f"{FILTER} bad.jsonl -o out.jsonl", tmp_path, check=False)
    assert_user_error(done, 3, "bad.jsonl:201: field 'text' is a number", "filter, unit")
    assert not (tmp_path / "out.jsonl").exists()


def test_nothing_left_in_one_unit_is_fine_and_in_all_an_error(made, tmp_path):
    lines = [json.dumps({"text": " ".join(["word"] * (5 if n < 50 else 60))}) for n in range(100)]
    (tmp_path / "docs.jsonl").write_text("\n".join(lines) + "\n")
    run(f"{FILTER} docs.jsonl | dedup -o out.jsonl", tmp_path, "--shard-bytes", "1K")
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 1
    done = run(
        "filter --rules length --min-doc-words 999 docs.jsonl | dedup -o none.jsonl",
        tmp_path,
        check=False,
        work="w2",
    )
    assert_user_error(done, 3, "filter: nothing is left", "--rejects")
    assert not (tmp_path / "none.jsonl").exists()


def test_all_mistakes_of_all_stages_are_in_one_report(made, tmp_path):
    pipeline = (
        f"filter {made}/docs.jsonl --min-doc-words x -o a | dedup --seeed 3 | tokenize b.jsonl"
        f" -t {made}/tok.json | pack --seq-len 0 -o out"
    )
    done = run(pipeline, tmp_path, check=False)
    assert_user_error(done, 2, "--min-doc-words", "--seeed", "'b.jsonl'", "--seq-len")
    assert not (tmp_path / "work").exists()


def test_a_mistake_that_only_the_command_knows_is_reported_before_any_unit(made, tmp_path):
    pipeline = (
        f"filter {made}/docs.jsonl --rules nonsense | dedup | tokenize -t {made}/docs.jsonl -o out"
    )
    done = run(pipeline, tmp_path, check=False)
    assert_user_error(done, 2, "nonsense", "stage 3 (tokenize)")
    assert not attempts(tmp_path / "work")


@pytest.mark.parametrize(
    ("pipeline", "mention"),
    [
        ("filter | dedup -o x", "names its files"),
        ("filter - | dedup -o x", "names its files"),
        ("filter a.jsonl", "needs -o"),
        ("filter a.jsonl -f | dedup -o x", "-f belongs"),
        ("filter a.jsonl --json | dedup -o x", "llm run has it"),
        ("filter --help", "no place in a stage"),
        ("extract a --files-from list -o x", "--files-from"),
        ("filter a.jsonl --rejects - -o x", "--rejects needs a file"),
        ("filter a.jsonl > x", "'>'"),
    ],
)
def test_what_a_pipeline_cannot_be(tmp_path, pipeline, mention):
    assert_user_error(run(pipeline, tmp_path, check=False), 2, mention)


def test_flags_are_checked(made, tmp_path):
    pipeline = f"{FILTER} {made}/docs.jsonl -o out.jsonl"
    assert_user_error(run(pipeline, tmp_path, "--executor", "rai", check=False), 2, "'rai'")
    assert_user_error(run(pipeline, tmp_path, "--shard-bytes", "x", check=False), 2, "'x'", "64M")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    done = run(pipeline, tmp_path, check=False, work="full")
    assert_user_error(done, 2, "full holds other files")
    (tmp_path / "full" / "mine").rename(tmp_path / "full" / ".plan.json.llmtools-tmp")
    run(pipeline, tmp_path, work="full")
    assert_user_error(run("filter no.jsonl -o x", tmp_path, check=False), 3, "no.jsonl: no such")


def test_dry_run_shows_the_units_and_writes_nothing(made, tmp_path):
    pipeline = f"extract {made}/site | {FILTER} | dedup -o out.jsonl"
    done = run(pipeline, tmp_path, "--dry-run", "--json")
    found = json.loads(done.stdout)["phases"]
    assert [phase["stages"] for phase in found] == [
        "extract | filter", "dedup sign", "dedup link", "dedup apply",
    ]  # fmt: skip
    assert found[0]["units"] > 1
    assert [phase["units"] for phase in found[1:]] == [None, 1, None]
    assert list(tmp_path.iterdir()) == []


def test_dry_run_says_memory_disk_and_time(made, tmp_path):
    for item in made.iterdir():
        (tmp_path / item.name).symlink_to(item)
    there = sorted(tmp_path.iterdir())
    plans = {}
    for name, (pipeline, _) in PIPES.items():
        plans[name] = json.loads(run(pipeline, tmp_path, "--dry-run", "--json").stdout)
        for key in ("memory_bytes", "disk_bytes", "time_s"):
            assert plans[name][key] > 0, (name, key)
    assert sorted(tmp_path.iterdir()) == there
    pipeline, output = PIPES["to packed rows"]
    many = json.loads(run(pipeline, tmp_path, "-n", "--json", "--workers", "8").stdout)
    one = json.loads(run(pipeline, tmp_path, "-n", "--json", "--workers", "1").stdout)
    assert many["memory_bytes"] > 2 * one["memory_bytes"]
    assert many["time_s"] < one["time_s"]
    # What is planned as the rows is about what they take, and all of it on the way is more.
    assert b"memory: about" in run(pipeline, tmp_path, "--dry-run").stdout
    run(pipeline, tmp_path)
    written = sum(map(len, tree(tmp_path / output).values()))
    assert written < many["disk_bytes"] < 20 * written


def test_dry_run_refuses_what_a_stage_would_refuse(made, tmp_path):
    pipeline = f"{FILTER} {made}/docs.jsonl | tokenize -t {made}/docs.jsonl -o out"
    done = run(pipeline, tmp_path, "--dry-run", check=False)
    assert_user_error(done, 2, "stage 2 (tokenize)", "docs.jsonl")
    (tmp_path / "out").write_text("mine")
    pipeline = f"{FILTER} {made}/docs.jsonl -o out"
    assert_user_error(run(pipeline, tmp_path, "--dry-run", check=False), 2, "out exists")


def test_lineage_leads_from_the_joined_output_to_the_raw_file(made, tmp_path):
    (tmp_path / "docs.jsonl").write_bytes((made / "docs.jsonl").read_bytes())
    run(f"{FILTER} docs.jsonl | dedup | tokenize -t {made}/tok.json -o out", tmp_path)
    done = run_llm("inspect", "out", "--lineage", cwd=tmp_path)
    for step in (b"llm tokenize", b"llm dedup", b"llm filter", b"docs.jsonl  [raw]"):
        assert step in done.stdout, done.stdout.decode()
