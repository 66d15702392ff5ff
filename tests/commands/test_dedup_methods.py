from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zstandard

from support import assert_user_error, run_llm

LONG = "A passage that is longer than a hundred bytes, so that it may be a repeated substring: " + (
    "it is, é, and goes on."
)
RECORDS = [
    {"id": "a", "text": f"First line.\n{LONG * 2}\nEnd of one."},
    {"id": "b", "n": 1, "text": f"Other line.\n{LONG * 2}\nEnd of two."},
    {"id": "c", "text": f"First line.\n{LONG * 2}\nEnd of one."},
    {"id": "d", "text": "FIRST LINE."},
]
LINES = [json.dumps(record, ensure_ascii=False).encode() for record in RECORDS]
A, B, C, D = LINES


def joined(*records: bytes) -> bytes:
    return b"".join(record + b"\n" for record in records)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(joined(*LINES))
    return path


def test_exact_copies_go_in_one_pass_from_a_pipe_too(corpus: Path, tmp_path: Path) -> None:
    rejects = tmp_path / "rejects.jsonl"
    done = run_llm("dedup", "--method", "exact", corpus, "--rejects", rejects)
    assert done.stdout == joined(A, B, D)
    assert done.stderr == b"dedup: 3 of 4 documents kept, dropped 1 exact copies\n"
    reject = b',"metadata":{"reject":{"rule":"exact","value":"a"}}}\n'
    assert rejects.read_bytes() == C[:-1] + reject
    piped = run_llm("dedup", "--method", "exact", stdin=corpus.read_bytes())
    assert piped.stdout == done.stdout


def test_of_exact_copies_the_keep_rule_chooses_and_clusters_are_named(tmp_path: Path) -> None:
    """The same table gives the first copies of the streamed method, by --cluster-ids alone."""
    records = [
        {"id": "a", "text": "one text", "metadata": {"score": 1, "date": "2026-01-01"}},
        {"id": "b", "text": "another"},
        {"id": "c", "text": "one text", "metadata": {"score": 3, "date": "2024-01-01"}},
        {"id": "d", "text": "one text", "metadata": {"score": 2, "date": "2025-01-01"}},
    ]
    source, rejects = tmp_path / "in.jsonl", tmp_path / "rejects.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in records))

    def kept(*flags: str) -> list[dict]:
        done = run_llm("dedup", "--method", "exact", source, *flags, "--rejects", rejects, "-f")
        return [json.loads(line) for line in done.stdout.splitlines()]

    assert [one["id"] for one in kept()] == ["a", "b"]
    assert kept("--keep", "metadata.score") == [records[1], records[2]]
    assert [json.loads(line)["id"] for line in rejects.read_bytes().splitlines()] == ["a", "d"]
    reject = json.loads(rejects.read_bytes().splitlines()[0])["metadata"]["reject"]
    assert reject == {"rule": "exact", "value": "c"}
    assert [one["id"] for one in kept("--keep", "newest")] == ["a", "b"]
    named = kept("--cluster-ids")
    assert [one["id"] for one in named] == ["a", "b"]
    assert named[0]["metadata"]["cluster"] == "a"
    assert [one["metadata"]["cluster_size"] for one in named] == [3, 1]
    piped = run_llm("dedup", "--method", "exact", "--keep", "longest", stdin=source.read_bytes())
    assert [json.loads(line)["id"] for line in piped.stdout.splitlines()] == ["a", "b"]
    missing = run_llm("dedup", "--method", "exact", source, "--keep", "metadata.x", check=False)
    assert_user_error(missing, 3, "no document has metadata.x")


def test_the_level_of_zstd_changes_the_bytes_stored_alone(corpus: Path, tmp_path: Path) -> None:
    found = []
    for level in ("1", "19"):
        out = tmp_path / f"{level}.jsonl.zst"
        run_llm("dedup", "--method", "exact", corpus, "--zstd-level", level, "-o", out)
        stored = out.read_bytes()
        assert zstandard.ZstdDecompressor().decompressobj().decompress(stored) == joined(A, B, D)
        found.append(stored)
    assert found[0] != found[1]


def test_lines_seen_before_are_cut_out_and_every_other_byte_stays(corpus: Path) -> None:
    done = run_llm("dedup", "--method", "line", corpus, "--quiet")
    shortened = b'{"id": "b", "n": 1, "text": "Other line.\\nEnd of two."}'
    assert done.stdout == joined(A, shortened)
    exact = run_llm("dedup", "--method", "line", "--normalize", "none", corpus, "--quiet")
    assert exact.stdout == joined(A, shortened, D)


def test_substrings_seen_before_are_cut_out(corpus: Path) -> None:
    done = run_llm("dedup", "--method", "substring", corpus, "--min-chars", "4")
    first, second, last = (json.loads(line) for line in done.stdout.splitlines())
    # The passage stands twice in the first text already; a copy begins where the first one ends.
    assert first["text"].count(LONG) == 1
    assert second["text"] == "Othertwo."
    assert last == RECORDS[3]
    assert b"1 dropped" in done.stderr


def test_annotations_say_what_would_be_cut_and_change_nothing_else(corpus: Path) -> None:
    done = run_llm("dedup", "--method", "line", "--annotate", corpus, "--quiet")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["text"] for record in found] == [record["text"] for record in RECORDS]
    spans = [record["metadata"]["duplicate_spans"] for record in found]
    assert [[RECORDS[i]["text"][a:b] for a, b in own] for i, own in enumerate(spans)] == [
        [],
        [f"{LONG * 2}\n"],
        [RECORDS[2]["text"]],
        ["FIRST LINE."],
    ]


def test_what_is_left_with_too_little_is_rejected_with_the_share_cut(
    corpus: Path, tmp_path: Path
) -> None:
    rejects = tmp_path / "rejects.jsonl"
    run_llm("dedup", "--method", "line", corpus, "--min-chars", "50", "--rejects", rejects)
    found = [json.loads(line) for line in rejects.read_bytes().splitlines()]
    assert [record["id"] for record in found] == ["b", "c", "d"]
    share = (len(LONG * 2) + 1) / len(RECORDS[1]["text"])  # type: ignore[arg-type]
    assert found[0]["metadata"]["reject"] == {"rule": "line", "value": round(share, 4)}
    assert found[0]["text"] == RECORDS[1]["text"]


def test_near_fingerprints_make_a_cluster(corpus: Path) -> None:
    done = run_llm("dedup", "--method", "simhash", "--cluster-ids", corpus, "--quiet")
    found = {r["id"]: r["metadata"] for r in map(json.loads, done.stdout.splitlines())}
    assert found["a"]["cluster_size"] >= 2
    assert "c" not in found


def vectors(path: Path, rows: list[list[float]]) -> Path:
    np.save(path, np.array(rows, np.float32))
    return path


def test_vectors_of_one_direction_make_a_cluster(corpus: Path, tmp_path: Path) -> None:
    rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.01], [5.0, 0.1]]
    given = ["--method", "semantic", "--vectors", vectors(tmp_path / "v.npy", rows)]
    one = run_llm("dedup", *given, "--num-clusters", "1", "--keep", "longest", corpus, "--quiet")
    assert one.stdout == joined(A, B)
    strict = run_llm("dedup", *given, "--num-clusters", "1", "--similarity", "1", corpus, "--quiet")
    assert strict.stdout == joined(A, B, D)


@pytest.mark.parametrize(
    ("rows", "mention"),
    [
        ([[1.0, 0.0]] * 3, "3 vectors for 4 documents"),
        ([[1.0, 0.0]] * 3 + [[0.0, 0.0]], "row 3 holds only zeros"),
        ([[1.0, 0.0]] * 3 + [[float("nan"), 0.0]], "row 3 holds a NaN"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused(
    corpus: Path, tmp_path: Path, rows: list[list[float]], mention: str
) -> None:
    out = tmp_path / "out.jsonl"
    given = ["--method", "semantic", "--vectors", vectors(tmp_path / "v.npy", rows)]
    assert_user_error(run_llm("dedup", *given, corpus, "-o", out, check=False), 3, mention)
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "mention"),
    [
        (["--method", "line", "--keep", "longest"], "--keep has no effect with --method line"),
        (["--method", "exact", "--keep", "best"], "keep 'best'"),
        (["--min-bytes", "50"], "--min-bytes has no effect with --method minhash"),
        (["--method", "semantic"], "--vectors"),
    ],
)
def test_a_flag_that_a_method_does_not_heed_is_refused(
    corpus: Path, flags: list[str], mention: str
) -> None:
    assert_user_error(run_llm("dedup", *flags, corpus, check=False), 2, mention)


def test_no_documents_are_an_error_for_every_method(tmp_path: Path) -> None:
    for method in ("exact", "line", "substring"):
        out = tmp_path / f"{method}.jsonl"
        done = run_llm("dedup", "--method", method, "-o", out, check=False)
        assert_user_error(done, 3, "no documents")
        assert not out.exists()
