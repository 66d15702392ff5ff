from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
from pathlib import Path

import pytest
import zstandard

from support import LLM, assert_user_error, run_llm

BASE = "the quick brown fox jumps over the lazy dog while eleven cats look on in silence"


def line(key: str, text: str, **more: object) -> bytes:
    return json.dumps({"id": key, "text": text, **more}).encode()


# Deliberately uneven spelling, which must survive.
RECORDS = [
    b'{"id": "a", "text":"' + BASE.encode() + b'",  "n": 1.50}',
    line("b", "another document that shares no shingle with any of the others here"),
    line("c", BASE, metadata={"k": [1, {"x": None}], "s": "é"}),
    line("d", BASE.title() + "."),
    b' {"text": "\\u00e9 no id and short" } ',
]
KEPT = [RECORDS[0], RECORDS[1], RECORDS[4]]


def joined(records: list[bytes]) -> bytes:
    return b"".join(record + b"\n" for record in records)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(joined(RECORDS))
    return path


def test_survivors_are_the_first_of_each_cluster_byte_for_byte(corpus: Path) -> None:
    done = run_llm("dedup", corpus)
    assert done.stdout == joined(KEPT)
    assert done.stderr == b"dedup: 3 of 5 documents kept, dropped 1 exact and 1 near copies\n"


def test_a_pipe_and_a_named_pipe_give_what_a_file_gives(corpus: Path, tmp_path: Path) -> None:
    assert run_llm("dedup", stdin=corpus.read_bytes()).stdout == joined(KEPT)
    compressed = zstandard.ZstdCompressor().compress(corpus.read_bytes())
    assert run_llm("dedup", "-", stdin=compressed).stdout == joined(KEPT)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = subprocess.Popen(["cp", corpus, fifo])
    assert run_llm("dedup", fifo).stdout == joined(KEPT)
    writer.wait()


def test_several_inputs_are_one_corpus_in_the_order_given(corpus: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.jsonl.gz"
    first.write_bytes(gzip.compress(joined(RECORDS[3:4])))
    done = run_llm("dedup", first, corpus)
    assert done.stdout == joined([RECORDS[3], RECORDS[1], RECORDS[4]])


def test_cluster_ids_and_rejects_change_metadata_alone(corpus: Path, tmp_path: Path) -> None:
    rejects = tmp_path / "rejects.jsonl"
    done = run_llm("dedup", corpus, "--cluster-ids", "--rejects", rejects)
    first, second, last = done.stdout.splitlines()
    cluster = b'"cluster":"a","cluster_size":3'
    assert first == RECORDS[0][:-1] + b',"metadata":{' + cluster + b"}}"
    assert json.loads(second)["metadata"] == {"cluster": "b", "cluster_size": 1}
    assert json.loads(last)["metadata"] == {"cluster": "in.jsonl:5", "cluster_size": 1}
    exact, near = rejects.read_bytes().splitlines()
    reject = b',"reject":{"rule":"exact","value":"a"}'
    assert exact == RECORDS[2][:-2] + b"," + cluster + reject + b"}}"
    assert json.loads(near)["metadata"]["reject"] == {"rule": "near", "value": "a"}


def test_json_reports_counts_and_the_manifest_holds_them(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl.zst"
    done = run_llm("dedup", corpus, "-o", out, "--json")
    counts = {
        "documents_in": 5,
        "documents_skipped": 0,
        "documents_kept": 3,
        "dropped_exact": 1,
        "dropped_near": 1,
        "clusters": 1,
    }
    assert json.loads(done.stdout) == counts
    manifest = json.loads((tmp_path / "out.jsonl.zst.manifest.json").read_bytes())
    assert manifest["counts"] == counts
    assert manifest["inputs"][0]["path"] == str(corpus)
    assert manifest["settings"]["minhash"]["num_buckets"] == 18
    # Reading its own output back finds nothing more to drop.
    assert run_llm("dedup", out).stdout == joined(KEPT)


def test_settings_change_what_is_near(corpus: Path) -> None:
    done = run_llm("dedup", corpus, "--n-grams", "12", "--num-buckets", "1", "--seed", "7")
    assert done.stdout == joined(KEPT)
    done = run_llm("dedup", corpus, "--n-grams", "40")
    assert done.stdout == joined([*RECORDS[:2], *RECORDS[3:]])


def test_a_reader_that_leaves_ends_the_command_silently(tmp_path: Path) -> None:
    draw = random.Random(0)
    path = tmp_path / "large.jsonl"
    with open(path, "wb") as file:
        for number in range(3000):
            words = " ".join(str(draw.random()).replace("0.", "w") for _ in range(80))
            file.write(line(str(number), words.replace("1", "a").replace("2", "b")) + b"\n")
    with subprocess.Popen(
        [*LLM, "dedup", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(60) == 141


GOOD = RECORDS[0] + b"\n"
BAD_INPUTS = {
    "gzip cut short": (gzip.compress(GOOD * 50)[:-12], "bad.jsonl", ["truncated"]),
    "zstd cut short": (
        zstandard.ZstdCompressor().compress(GOOD * 50)[:-6],
        "bad.jsonl",
        ["truncated"],
    ),
    "not JSON": (GOOD + b"{oops}\n", "bad.jsonl:2", ["not JSON"]),
    "not an object": (GOOD + b"[1]\n", "bad.jsonl:2", ["array"]),
    "no text": (GOOD + b'{"id": "x", "txt": "y"}\n', "bad.jsonl:2", ["'text'", "'txt'"]),
    "text is a number": (GOOD + b'{"text": 3}\n', "bad.jsonl:2", ["'text'", "number"]),
    "not UTF-8": (GOOD + b'{"text": "\xff"}\n', "bad.jsonl:2", ["UTF-8"]),
    "nothing": (b"\n", "bad.jsonl", ["no documents"]),
}


# Both commands read by the same reader, so one of them tries every case.
@pytest.mark.parametrize(
    ("command", "case"),
    [*(("dedup", case) for case in BAD_INPUTS), ("filter", "not JSON"), ("filter", "nothing")],
)
def test_bad_input_is_named_and_leaves_nothing(command: str, case: str, tmp_path: Path) -> None:
    data, where, mentions = BAD_INPUTS[case]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(data)
    out = tmp_path / "out.jsonl"
    done = run_llm(command, path, "-o", out, check=False)
    assert_user_error(done, 3, where, *mentions)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.jsonl"]


@pytest.mark.parametrize("command", ["dedup", "filter"])
def test_outputs_that_cannot_be_right_are_refused(command: str, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(GOOD)
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"mine")
    assert_user_error(run_llm(command, path, "-o", out, check=False), 2, "out.jsonl", "-f")
    assert out.read_bytes() == b"mine"
    twice = run_llm(command, path, "-f", "-o", out, "--rejects", out, check=False)
    assert_user_error(twice, 2, "two outputs")
    assert_user_error(run_llm(command, path, "--json", check=False), 2, "-o FILE")
    missing = run_llm(command, tmp_path / "none.jsonl", check=False)
    assert_user_error(missing, 3, "none.jsonl", "no such file")


def test_metadata_that_is_no_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(line("a", BASE, metadata=[1]) + b"\n")
    done = run_llm("dedup", path, "--cluster-ids", check=False)
    assert_user_error(done, 3, "in.jsonl:1", "metadata", "array")
    assert run_llm("dedup", path).stdout == path.read_bytes()


def variants(num_documents: int = 60) -> list[bytes]:
    """Three copies of each text, the later ones longer, with a date that falls."""
    records = []
    for n in range(num_documents):
        words = [f"{chr(97 + n // 3 % 26)}{chr(97 + n // 78)}x{chr(97 + i)}" for i in range(26)]
        text = " ".join(words * 2) + " and more" * (n % 3)
        records.append(line(f"d{n}", text, metadata={"date": f"2026-01-{28 - n % 3}", "q": n % 3}))
    return records


@pytest.mark.parametrize(
    ("keep", "expected"), [("first", 0), ("longest", 2), ("newest", 0), ("metadata.q", 2)]
)
def test_the_keep_rule_chooses_the_survivor(tmp_path: Path, keep: str, expected: int) -> None:
    records = variants()
    path = tmp_path / "in.jsonl"
    path.write_bytes(joined(records))
    rejects = tmp_path / "rejects.jsonl"
    done = run_llm("dedup", path, "--keep", keep, "--rejects", rejects)
    assert done.stdout == joined(records[expected::3])
    for raw in rejects.read_bytes().splitlines():
        dropped = json.loads(raw)
        number = int(dropped["id"][1:])
        assert dropped["metadata"]["reject"]["value"] == f"d{number // 3 * 3 + expected}"


def test_an_index_of_the_first_half_leaves_what_one_run_leaves(tmp_path: Path) -> None:
    records = variants()
    random.Random(3).shuffle(records)
    whole = run_llm("dedup", stdin=joined(records)).stdout
    for name, part in (("old", records[:8]), ("more", records[8:15]), ("new", records[15:])):
        (tmp_path / name).write_bytes(joined(part))
    kept = [
        run_llm("dedup", tmp_path / "old", "--create-index", tmp_path / "i1").stdout,
        run_llm(
            *("dedup", tmp_path / "more", "--index", tmp_path / "i1"),
            *("--create-index", tmp_path / "i2"),
        ).stdout,
        run_llm(
            *("dedup", tmp_path / "new", "--index", tmp_path / "i1", "--index", tmp_path / "i2"),
            *("--rejects", tmp_path / "rejects"),
        ).stdout,
    ]
    assert b"".join(kept) == whole
    survivors = {json.loads(raw)["id"] for raw in whole.splitlines()}
    for raw in (tmp_path / "rejects").read_bytes().splitlines():
        assert json.loads(raw)["metadata"]["reject"]["value"] in survivors


def test_input_that_an_index_holds_whole_is_an_error_and_its_rejects_stay(
    corpus: Path, tmp_path: Path
) -> None:
    run_llm("dedup", corpus, "-o", tmp_path / "out", "--create-index", tmp_path / "index")
    rejects = tmp_path / "rejects"
    flags = ("--index", tmp_path / "index", "--rejects", rejects)
    done = run_llm("dedup", corpus, *flags, check=False)
    assert_user_error(done, 3, "all 5 documents have copies in")
    assert rejects.read_bytes().count(b"\n") == 5


def test_an_index_of_other_settings_or_cut_short_is_refused(corpus: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    run_llm("dedup", corpus, "-o", tmp_path / "out", "--create-index", index)
    done = run_llm("dedup", corpus, "--index", index, "--num-buckets", 3, check=False)
    assert_user_error(done, 2, "num_buckets was 18, now 3")
    done = run_llm("dedup", corpus, "--index", index, "--verify-jaccard", 0.8, check=False)
    assert_user_error(done, 2, "an index has none")
    for name in ("near", "exact", "documents"):
        file = index / f"{name}.safetensors"
        data = file.read_bytes()
        file.write_bytes(data[:-1])
        done = run_llm("dedup", corpus, "--index", index, check=False)
        assert_user_error(done, 3, "truncated")
        file.write_bytes(data)
    assert_user_error(run_llm("dedup", corpus, "--index", corpus, check=False), 3, "not an index")


def test_explain_names_the_twin_and_what_both_share(corpus: Path) -> None:
    done = run_llm("dedup", corpus, "--explain", "d", "--json")
    found = json.loads(done.stdout)
    assert (found["kept"], found["is_kept"], found["is_exact"]) == ("a", False, False)
    assert (found["jaccard"], found["shared"][0]) == (1.0, "the quick brown fox jumps")
    assert b"kept, with 2 copies" in run_llm("dedup", corpus, "--explain", "a").stdout
    done = run_llm("dedup", corpus, "--explain", "zebra", check=False)
    assert_user_error(done, 3, "no document has the id 'zebra'")


def test_explain_knows_the_twins_of_an_index(tmp_path: Path) -> None:
    records = variants()
    random.Random(3).shuffle(records)
    for name, part in (("old", records[:8]), ("more", records[8:15]), ("new", records[15:])):
        (tmp_path / name).write_bytes(joined(part))
    for name in ("old", "more"):
        index = tmp_path / f"{name}-index"
        run_llm("dedup", tmp_path / name, "-o", tmp_path / "out", "-f", "--create-index", index)
    flags = ["--index", tmp_path / "old-index", "--index", tmp_path / "more-index"]
    run_llm("dedup", tmp_path / "new", *flags, "--rejects", tmp_path / "rejects")
    places = {json.loads(raw)["id"]: n for n, raw in enumerate(records)}
    seen = set()
    for raw in (tmp_path / "rejects").read_bytes().splitlines():
        dropped = json.loads(raw)
        rule, kept = dropped["metadata"]["reject"].values()
        holder = "old" if places[kept] < 8 else "more" if places[kept] < 15 else None
        if (rule, holder) in seen:
            continue
        seen.add((rule, holder))
        line = ("dedup", tmp_path / "new", *flags, "--explain", dropped["id"])
        found = json.loads(run_llm(*line, "--json").stdout)
        expected = None if holder is None else str(tmp_path / f"{holder}-index")
        assert (found["kept"], found["index"], found["is_kept"]) == (kept, expected, False)
        assert found["is_exact"] == (rule == "exact")
        assert (found["jaccard"] is None) == (holder is not None) == (not found["shared"])
        said = run_llm(*line).stdout.decode()
        assert (f"{kept} of the index {expected}, which" in said) == (holder is not None)
    assert {holder for _, holder in seen} >= {"old", "more"}
    done = run_llm(*line, "--verify-jaccard", 0.8, check=False)
    assert_user_error(done, 2, "an index has none")


def test_bounded_memory_changes_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(joined(variants()))
    whole = run_llm("dedup", path, "--cluster-ids").stdout
    assert run_llm("dedup", path, "--cluster-ids", "--memory", "256M").stdout == whole
    assert_user_error(run_llm("dedup", path, "--memory", "1M", check=False), 2, "256M or more")


def test_an_index_replaces_no_file_and_has_a_place_of_its_own(tmp_path: Path) -> None:
    docs = tmp_path / "docs.jsonl"
    docs.write_text('{"text": "a b c d e f"}\n')
    line = ("dedup", docs, "-o", tmp_path / "out.jsonl", "-f", "--create-index")
    assert_user_error(run_llm(*line, docs, check=False), 2, "docs.jsonl is a file")
    same = run_llm(*line, f"{tmp_path}/./out.jsonl", check=False)
    assert_user_error(same, 2, "named for two outputs")
    assert list(tmp_path.iterdir()) == [docs]
    assert docs.read_text() == '{"text": "a b c d e f"}\n'
