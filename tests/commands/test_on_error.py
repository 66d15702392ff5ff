"""--on-error and --rejects: malformed records end a run, or are dropped, counted and kept aside."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
from pathlib import Path

import pytest

from bad_records import BAD, GOOD
from in_process import run_here
from support import assert_user_error
from toy_tokenizer import save_toy


def run_ok(*args: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A run that must end well."""
    return run_here(*args, stdin=stdin, check=True)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Good and bad records; no good one stands first or last."""
    bad = list(BAD.values())
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(b"\n".join([*bad[:2], GOOD[0], *bad[2:4], GOOD[1], *bad[4:]]) + b"\n")
    return path


def command_line(name: str, source: Path, folder: Path) -> tuple[list[str | Path], Path]:
    """A command that reads documents, and its output."""
    tokenizer = save_toy(folder / "tokenizer.json") if name != "filter" else None
    out = folder / {
        "pack": "rows",
        "tokenize": "tokens.safetensors",
        "scorer": "lm.safetensors",
    }.get(name, "out.jsonl")
    trained = folder / "given.safetensors"
    if name == "score":
        texts = folder / "texts.jsonl"
        texts.write_bytes(GOOD[0] + b"\n")
        run_ok("scorer", "train", texts, "-o", trained)
    extra: list[str | Path] = {
        "filter": ["--rules", "length", "--min-doc-words", "1"],
        "dedup": [],
        "tokenize": ["-t", tokenizer],
        "pack": ["-t", tokenizer, "--seq-len", "8"],
        "tokenizer": ["--vocab-size", "300"],
        "scorer": [],
        "score": ["--with", trained],
    }[name]
    words = [name, "train"] if name in ("tokenizer", "scorer") else [name]
    return [*words, source, *extra, "-o", out], out


COMMANDS = ("filter", "dedup", "tokenize", "pack", "tokenizer", "scorer", "score")


@pytest.mark.parametrize("name", COMMANDS)
def test_by_default_the_first_malformed_record_ends_the_run(name, mixed, tmp_path):
    line, out = command_line(name, mixed, tmp_path)
    assert_user_error(run_here(*line), 3, "mixed.jsonl:1", "not JSON")
    assert not out.exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_skipping_gives_what_the_good_records_alone_give(name, mixed, tmp_path):
    line, out = command_line(name, mixed, tmp_path)
    done = run_ok(*line, "--on-error", "skip", "--json")
    assert json.loads(done.stdout)["documents_skipped"] == len(BAD)
    clean = tmp_path / "clean.jsonl"
    clean.write_bytes(b"\n".join(GOOD) + b"\n")
    again = tmp_path / "again"
    again.mkdir()
    other, expected = command_line(name, clean, again)
    run_ok(*other)
    for file in [out] if out.is_file() else sorted(out.glob("train-*")):
        twin = expected if out.is_file() else expected / file.name
        assert file.read_bytes() == twin.read_bytes()
    manifest = out / "manifest.json" if out.is_dir() else Path(f"{out}.manifest.json")
    assert json.loads(manifest.read_text())["counts"]["documents_skipped"] == len(BAD)
    stderr = done.stderr.decode()
    assert "mixed.jsonl:1: not JSON" in stderr
    assert stderr.count("skipped ") == 5 and "more records are skipped" in stderr


def test_the_closing_words_count_what_was_skipped(mixed, tmp_path):
    line, _ = command_line("filter", mixed, tmp_path)
    for flags in ([], ["--workers", "2", "-f"]):
        done = run_ok(*line, "--on-error", "skip", *flags)
        said = done.stderr.decode().splitlines()[-1]
        assert said.startswith("filter: ") and said.count("skipped") == 1
        assert f"{len(BAD)} malformed records skipped" in said or f"skipped {len(BAD)}" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_rejects_keeps_every_malformed_record_whole_with_its_reason(name, mixed, tmp_path):
    line, _ = command_line(name, mixed, tmp_path)
    rejects = tmp_path / "rejects.jsonl.gz"
    run_ok(*line, "--on-error", "skip", "--rejects", rejects)
    records = [json.loads(row) for row in gzip.decompress(rejects.read_bytes()).splitlines()]
    lines = mixed.read_bytes().splitlines()
    assert len(records) == len(BAD)
    for record, (reason, raw) in zip(records, BAD.items(), strict=True):
        reject = record["metadata"]["reject"]
        assert reject["rule"] == "malformed"
        assert reject["where"] == f"{mixed}:{lines.index(raw) + 1}"
        assert reason in reject["value"]
        if "raw" in record or "raw_base64" in record:
            kept = record.get("raw", "").encode() or base64.b64decode(record["raw_base64"])
            assert kept == raw
        else:
            record["metadata"].pop("reject")
            original = json.loads(raw)
            assert record == {"metadata": {}} | original


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_but_malformed_records_is_exit_3_and_the_rejects_stay(name, tmp_path):
    source = tmp_path / "bad.jsonl"
    source.write_bytes(b"\n".join(BAD.values()) + b"\n")
    line, out = command_line(name, source, tmp_path)
    rejects = tmp_path / "rejects.jsonl"
    done = run_here(*line, "--on-error", "skip", "--rejects", rejects)
    assert_user_error(done, 3, "documents" if name == "filter" else "")
    assert not out.exists()
    assert len(rejects.read_text().splitlines()) == len(BAD)


@pytest.mark.parametrize("name", ["tokenize", "pack", "tokenizer", "scorer", "score"])
def test_rejects_without_a_command_that_drops_is_refused(name, mixed, tmp_path):
    line, _ = command_line(name, mixed, tmp_path)
    done = run_here(*line, "--rejects", tmp_path / "r.jsonl")
    assert_user_error(done, 2, "--rejects has no effect without --on-error skip")


@pytest.mark.parametrize("name", ["filter", "dedup"])
def test_a_cut_compressed_file_is_an_error_even_when_skipping(name, tmp_path):
    source = tmp_path / "cut.jsonl.gz"
    data = gzip.compress(b"\n".join(GOOD * 200))
    source.write_bytes(data[: len(data) // 2])
    line, out = command_line(name, source, tmp_path)
    assert_user_error(run_here(*line, "--on-error", "skip"), 3, "truncated")
    assert not out.exists()


def test_dedup_of_a_pipe_skips_like_dedup_of_a_file(mixed, tmp_path):
    from_file = run_ok("dedup", mixed, "--on-error", "skip").stdout
    from_pipe = run_ok("dedup", "--on-error", "skip", stdin=mixed.read_bytes()).stdout
    assert from_file == from_pipe == b"\n".join(GOOD) + b"\n"


def test_records_whose_metadata_is_no_object_are_malformed_only_where_it_is_written(tmp_path):
    source = tmp_path / "odd.jsonl"
    odd = b'{"id":"m","text":"some more words here","metadata":3}'
    source.write_bytes(odd + b"\n" + GOOD[0] + b"\n")
    kept = run_ok("filter", source, "--rules", "length", "--min-doc-words", "1").stdout
    assert odd in kept
    rejects = tmp_path / "r.jsonl"
    options = (
        "--rules",
        "length",
        "--min-doc-words",
        "1",
        "--on-error",
        "skip",
        "--rejects",
        rejects,
    )
    assert run_ok("filter", source, *options).stdout == GOOD[0] + b"\n"
    record = json.loads(rejects.read_text())
    assert record["raw"] == odd.decode()
    assert "'metadata' is a number" in record["metadata"]["reject"]["value"]


def test_elements_of_an_array_and_text_files_are_records_too(tmp_path):
    array = tmp_path / "array.json"
    array.write_text('[3, {"id": "a", "text": "one"}, {"id": "b"}]')
    (tmp_path / "bad.txt").write_bytes(b"\xff\xff")
    done = run_ok("dedup", array, tmp_path / "bad.txt", "--on-error", "skip")
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["a"]
    assert b"bad.txt: not UTF-8" in done.stderr
    array.write_text('[{"id": "a", "text": "one"}')
    done = run_here("dedup", array, "--on-error", "skip")
    assert_user_error(done, 3, "array.json", "not JSON")


def test_extract_names_the_files_that_are_no_documents_and_can_fail_on_them(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.txt").write_text("words")
    (tree / "b.txt").write_bytes(b"\xff\xfe words")
    (tree / "c.bin").write_bytes(b"\0\1")
    rejects, out = tmp_path / "rejects.jsonl", tmp_path / "out.jsonl"
    run_ok("extract", tree, "--rejects", rejects, "-o", out)
    found = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(r["id"], r["metadata"]["reject"]["value"]) for r in found] == [
        ("b.txt", "not UTF-8"),
        ("c.bin", "binary (NUL byte)"),
    ]
    assert all(r["metadata"]["reject"]["rule"] == "extract" for r in found)
    done = run_here("extract", tree, "--on-error", "fail", "-o", tmp_path / "x")
    assert_user_error(done, 3, "b.txt: not UTF-8", "--on-error skip")
    (tree / "b.txt").unlink()
    run_ok("extract", tree, "--on-error", "fail", "-o", tmp_path / "x")
