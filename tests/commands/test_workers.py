"""--workers, --work-dir and --resume on the commands that treat each document alone."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from support import assert_user_error, run_llm

WORDS = [f"word{number}" for number in range(3000)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents, some too short; two trees; a tokenizer."""
    folder = tmp_path_factory.mktemp("made")
    source = random.Random(3)
    block = " ".join(source.choices(WORDS, k=4_000))
    with open(folder / "docs.jsonl", "w") as out:
        for number in range(200):
            start = source.randrange(10_000)
            text = "short" if number % 9 == 0 else f"{number} " + block[start : start + 5_000]
            out.write(json.dumps({"text": text}) + "\n")
    for tree in ("one", "two"):
        for number in range(6):
            path = folder / tree / f"{number % 2}" / f"{tree}{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block[number : number + 20_000])
    with open(folder / "some.jsonl", "w") as out:
        for number in range(300):
            text = " ".join(source.choices(WORDS, k=20))
            out.write(json.dumps({"id": str(number), "text": text}) + "\n")
    train = ["tokenizer", "train", folder / "some.jsonl", "--vocab-size", 300]
    run_llm(*train, "-o", folder / "tok.json")
    return folder


def contents(path: Path) -> list[bytes]:
    if path.is_file():
        return [path.read_bytes()]
    files = [f for f in sorted(path.rglob("*")) if f.name != "manifest.json"]
    return [file.read_bytes() for file in files if file.is_file()]


COMMANDS = {
    "filter": ["filter", "docs.jsonl", "--rules", "length", "-o"],
    "filter to zstd": ["filter", "docs.jsonl", "--rules", "length", "-o"],
    "tokenize": ["tokenize", "some.jsonl", "docs.jsonl", "-t", "tok.json", "-o"],
    "extract": ["extract", "one", "two", "--exclude", "two3.txt", "-o"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_output_is_that_of_one_process(made, tmp_path, name):
    suffix = ".jsonl.zst" if "zstd" in name else ".jsonl" if name != "tokenize" else ""
    alone, together = tmp_path / f"alone{suffix}", tmp_path / f"together{suffix}"
    for target, flags in ((alone, []), (together, ["--workers", 3, "--shard-bytes", "100K"])):
        more = ["--rejects", f"{target}.rejects"] if name == "filter" else []
        run_llm(*COMMANDS[name], target, *more, *flags, "-q", cwd=made)
    assert contents(together) == contents(alone) != []
    if name == "filter":
        assert contents(Path(f"{together}.rejects")) == contents(Path(f"{alone}.rejects")) != []
    assert not list(tmp_path.glob(".*"))


def test_workers_take_a_tokenizer_of_any_kind(made, tmp_path):
    model = json.loads((made / "tok.json").read_text())["model"]
    pair = tmp_path / "pair"
    pair.mkdir()
    (pair / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (pair / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    for target, flags in (("alone", []), ("together", ["--workers", 2, "--shard-bytes", "100K"])):
        line = ["tokenize", "docs.jsonl", "-t", pair, "-o", tmp_path / target, *flags, "-q"]
        run_llm(*line, cwd=made)
    assert contents(tmp_path / "together") == contents(tmp_path / "alone") != []


def test_the_report_has_the_keys_of_one_process(made, tmp_path):
    base = ["filter", made / "docs.jsonl", "--rules", "length", "--json", "-o"]
    alone = json.loads(run_llm(*base, tmp_path / "a.jsonl").stdout)
    units = ["--workers", 2, "--shard-bytes", "5"]
    together = json.loads(run_llm(*base, tmp_path / "b.jsonl", *units[:3], "3K").stdout)
    for report in (alone, together):
        assert report["rules"]["length"].pop("seconds") >= 0
    assert together == alone
    (tmp_path / "tree" / ".git").mkdir(parents=True)
    for number in range(5):
        (tmp_path / "tree" / f"{number}.txt").write_text("text" if number else "\0")
    base = ["extract", tmp_path / "tree", "--exclude", "3.txt", "--json", "-o"]
    alone = json.loads(run_llm(*base, tmp_path / "c.jsonl").stdout)
    together = json.loads(run_llm(*base, tmp_path / "d.jsonl", *units).stdout)
    assert together == alone


def test_a_work_directory_remembers_also_for_one_worker(made, tmp_path):
    base = ["filter", made / "some.jsonl", "--rules", "length", "--min-doc-words", "5"]
    base += ["-o", "out.jsonl", "--work-dir", "work"]
    run_llm(*base, cwd=tmp_path)
    assert b"done already" in run_llm(*base, "--resume", cwd=tmp_path).stderr
    other = run_llm(*base, "--min-doc-words", "6", cwd=tmp_path, check=False)
    assert_user_error(other, 2, "min_doc_words was 5, now 6")
    again = run_llm(*base, "--min-doc-words", "6", "--no-resume", "-f", cwd=tmp_path)
    assert b"(units: 1)" in again.stderr
    base[-1] = "other"
    smaller = run_llm(*base, "-f", "--shard-bytes", "20K", cwd=tmp_path)
    assert b"(units: 1)" not in smaller.stderr


def test_a_line_that_was_wrong_does_not_stand_in_the_way_of_the_right_one(made, tmp_path):
    base = ["filter", made / "some.jsonl", "--rules", "length", "--min-doc-words", "5"]
    base += ["-o", "out.jsonl", "--workers", "2"]
    wrong = run_llm(*base, "--text-key", "body", cwd=tmp_path, check=False)
    assert_user_error(wrong, 3, "some.jsonl:1", "--text-key")
    run_llm(*base, cwd=tmp_path)
    assert [path.name for path in tmp_path.glob("out*") if path.suffix == ".jsonl"] == ["out.jsonl"]
    assert not list(tmp_path.glob(".*"))
    # Where there is something done, it is not thrown away.
    empty = [*base, "-f", "--min-doc-words", "5000", "--work-dir", "work"]
    left = run_llm(*empty, cwd=tmp_path, check=False)
    assert_user_error(left, 3, "nothing is left", "some.jsonl: none of")
    other = run_llm(*empty, "--min-doc-words", "9", cwd=tmp_path, check=False)
    assert_user_error(other, 2, "min_doc_words was 5000, now 9")


def test_a_dry_run_counts_the_workers(made, tmp_path):
    base = ["filter", made / "docs.jsonl", "--rules", "length", "-o", tmp_path / "x", "-n"]
    one, *many = (
        json.loads(run_llm(*base, "--json", *flags).stdout)
        for flags in ([], ["--workers", "4"], ["--workers", "8"])
    )
    assert [plan["command"] for plan in many] == ["filter"] * 2
    assert many[1]["memory_bytes"] > 8 * one["memory_bytes"] > 1.5 * many[0]["memory_bytes"]
    assert many[0]["disk_bytes"] >= 2 * one["disk_bytes"] > 0
    assert many[1]["time_s"] < many[0]["time_s"] < one["time_s"]
    assert many[0]["facts"] == one["facts"] | {"workers": 4}
    assert b"filter: a plan" in run_llm(*base, "--workers", "2").stdout
    stdin = run_llm("filter", "-", "-o", "x", "-n", "--workers", "2", check=False)
    assert_user_error(stdin, 2, "names its files")
    assert list(tmp_path.iterdir()) == []


def test_what_units_cannot_do_is_refused(made, tmp_path):
    some = made / "some.jsonl"
    for arguments, mention in (
        (["filter", some, "--workers", "2"], "needs -o"),
        (["filter", "-", "--workers", "2", "-o", "x"], "names its files"),
        (["filter", some, "--no-resume", "-o", "x"], "--no-resume has no effect"),
        (["filter", some, "--shard-bytes", "1M", "-o", "x"], "--shard-bytes has no effect"),
        (["extract", made, "--files-from", "l", "--workers", "2", "-o", "x"], "--files-from"),
        (["filter", some, "--workers", "0", "-o", "x"], "--workers"),
        (["filter", some, "--workers", "2", "--stats", "./x", "-o", "x"], "x is named for two"),
    ):
        assert_user_error(run_llm(*arguments, cwd=tmp_path, check=False), 2, mention)


def test_a_list_of_files_replaces_the_walk(made, tmp_path):
    shutil.copytree(made / "one", tmp_path / "one")
    names = ["one/1/one3.txt", "one/0/one0.txt"]
    for separator in ("\n", "\0"):
        (tmp_path / "list").write_text(separator.join(names) + separator)
        done = run_llm("extract", "one", "--files-from", "list", cwd=tmp_path)
        ids = [json.loads(line)["id"] for line in done.stdout.splitlines()]
        assert ids == ["1/one3.txt", "0/one0.txt"]
    outside = run_llm("extract", "one/0", "--files-from", "list", cwd=tmp_path, check=False)
    assert_user_error(outside, 3, "one/1/one3.txt", "not at or below one/0")
    both = ["extract", "one", "--files-from", "list", "--include", "*.txt"]
    assert_user_error(run_llm(*both, cwd=tmp_path, check=False), 2, "--include")
