from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import assert_user_error, run_llm

PLAIN = " ".join(f"word{i}" for i in range(60))
GOOD = b'{"text": "' + PLAIN.encode() + b'",  "id":"good", "x": 1.0}'
SHORT = b'{"id": "short", "text": "too short", "metadata": {"k": "v"}}'
LOOPING = json.dumps({"id": "loop", "text": "\n".join(["again and again"] * 30)}).encode()
SYMBOLS = json.dumps({"id": "hash", "text": PLAIN.replace("1", "1#")}).encode()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join([SHORT, GOOD, LOOPING, SYMBOLS]) + b"\n")
    return path


def test_each_rule_drops_its_document_and_the_others_keep_their_bytes(
    corpus: Path, tmp_path: Path
) -> None:
    out, rejects = tmp_path / "out.jsonl", tmp_path / "rejects.jsonl"
    done = run_llm("filter", corpus, "-o", out, "--rejects", rejects, "--json")
    assert out.read_bytes() == GOOD + b"\n"
    counts = {
        "documents_in": 4,
        "documents_kept": 1,
        "dropped": {"length": 1, "repetition": 1, "symbols": 1},
        "dropped_by_measure": {"doc_words": 1, "dup_line_frac": 1, "hash_word_ratio": 1},
        "documents_skipped": 0,
    }
    found = json.loads(done.stdout)
    counts["rules"] = found["rules"]
    assert found == counts
    assert [rule["dropped"] for rule in found["rules"].values()] == [1, 1, 1]
    for path in (out, rejects):
        manifest = json.loads(Path(f"{path}.manifest.json").read_bytes())
        assert manifest["counts"] == counts
        assert len(manifest["outputs"]) == 2
    dropped = rejects.read_bytes().splitlines()
    reject = b'"reject":{"rule":"length","measure":"doc_words","value":2,"threshold":50}'
    assert dropped[0] == SHORT[:-2] + b"," + reject + b"}}"
    reasons = [json.loads(record)["metadata"]["reject"] for record in dropped]
    assert [r["rule"] for r in reasons] == ["length", "repetition", "symbols"]
    assert all(set(r) == {"rule", "measure", "value", "threshold"} for r in reasons)


def test_thresholds_and_rules_are_flags(corpus: Path) -> None:
    def kept(*flags: str) -> list[str]:
        lines = run_llm("filter", corpus, *flags).stdout.splitlines()
        return [json.loads(line)["id"] for line in lines]

    assert kept() == ["good"]
    assert kept("--rules", "length") == ["good", "loop", "hash"]
    assert kept("--rules", "length", "--min-doc-words", "2") == ["short", "good", "loop", "hash"]
    assert kept("--rules", "symbols,length") == ["good", "loop"]
    assert kept("--max-symbol-word-ratio", "0.5") == ["good", "hash"]
    open_ = [f"--dup-{kind}-frac=1" for kind in ("para", "para-char", "line", "line-char")]
    assert kept(*open_, "--top-n-grams", "", "--dup-n-grams", "") == ["good", "loop"]


def test_annotate_drops_nothing_and_says_what_would_have_been(corpus: Path) -> None:
    done = run_llm("filter", corpus, "--annotate", "--rules", "length,symbols")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["id"] for record in records] == ["short", "good", "loop", "hash"]
    assert records[1]["metadata"] == {
        "measures": {
            "length": {"doc_words": 60},
            "symbols": {"hash_word_ratio": 0.0, "ellipsis_word_ratio": 0.0},
        }
    }
    # Every rule measures every document, also the one that the first rule would have dropped.
    assert set(records[0]["metadata"]) == {"k", "measures", "reject"}
    assert records[0]["metadata"]["measures"]["symbols"]["hash_word_ratio"] == 0.0
    assert records[0]["metadata"]["reject"] == {
        "rule": "length",
        "measure": "doc_words",
        "value": 2,
        "threshold": 50,
    }
    assert b"4 of 4 documents kept (rejected: length 1, symbols 1)" in done.stderr


def test_stats_say_what_each_rule_saw_dropped_and_cost(corpus: Path, tmp_path: Path) -> None:
    stats = tmp_path / "stats.json"
    done = run_llm("filter", corpus, "--stats", stats, "-v")
    rules = json.loads(stats.read_bytes())["rules"]
    assert [r["rule"] for r in rules] == ["length", "repetition", "symbols"]
    assert [r["documents"] for r in rules] == [4, 3, 2]
    assert [r["dropped"] for r in rules] == [1, 1, 1]
    assert rules[0]["bytes"] - rules[0]["dropped_bytes"] == rules[1]["bytes"]
    assert all(r["seconds"] > 0 for r in rules)
    assert b"filter: repetition: 1 of 3 documents rejected" in done.stderr


def test_stats_of_units_add_up_to_those_of_one_process(corpus: Path, tmp_path: Path) -> None:
    plain, units, out = (tmp_path / name for name in ("plain.json", "units.json", "out.jsonl"))
    run_llm("filter", corpus, "--stats", plain)
    line = ("filter", corpus, "--stats", units, "--workers", "2", "--shard-bytes", "100", "-o", out)
    done = run_llm(*line, "--json")
    assert json.loads(done.stdout)["documents_in"] == 4
    found = [json.loads(path.read_bytes())["rules"] for path in (plain, units)]
    for rules in found:
        assert all(rule.pop("seconds") > 0 for rule in rules)
    assert found[0] == found[1]
    assert_user_error(run_llm(*line, check=False), 2, "exists", "-f")
    stage = f"filter {corpus} --stats {units} -o {out}"
    piped = run_llm("run", "--work-dir", tmp_path / "w", "--", *stage.split(), check=False)
    assert_user_error(piped, 2, "--stats has no place in a stage")


def test_an_empty_result_is_an_error_that_still_shows_why(tmp_path: Path) -> None:
    path, rejects = tmp_path / "in.jsonl", tmp_path / "rejects.jsonl"
    path.write_bytes(SHORT + b"\n")
    out = tmp_path / "out.jsonl"
    done = run_llm("filter", path, "-o", out, "--rejects", rejects, check=False)
    assert_user_error(done, 3, "none of 1 documents", "length 1", "rejects.jsonl")
    assert not out.exists() and not Path(f"{out}.manifest.json").exists()
    assert rejects.read_bytes().count(b"\n") == 1
    assert_user_error(run_llm("filter", path, check=False), 3, "--rejects FILE")


@pytest.mark.parametrize(
    ("flags", "mentions"),
    [
        (["--rules", "lenght"], ["no rule 'lenght'", "did you mean 'length'"]),
        (["--rules", ""], ["no rules given"]),
        (["--top-n-grams", "2=0.2"], ["--top-n-grams", "N:FRACTION"]),
        (["--dup-n-grams", "1:0.2"], ["dup_n_grams 1"]),
        (["--min-doc-words", "9", "--max-doc-words", "3"], ["9", "3"]),
    ],
)
def test_wrong_settings_are_named(corpus: Path, flags: list[str], mentions: list[str]) -> None:
    assert_user_error(run_llm("filter", corpus, *flags, check=False), 2, *mentions)


def test_a_pipe_is_filtered_in_order(corpus: Path) -> None:
    done = run_llm("filter", "--rules", "length", stdin=corpus.read_bytes())
    assert done.stdout == b"\n".join([GOOD, LOOPING, SYMBOLS]) + b"\n"
    assert b"3 of 4 documents kept" in done.stderr
