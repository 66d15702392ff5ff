"""`llm filter` on texts that break programs: long, empty, of one character, not quite Unicode."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from support import assert_user_error, run_llm

EVERY_RULE = "length,repetition,symbols,gopher-quality,c4,c4-paragraphs,fineweb,refinedweb"
PLAIN = " ".join(f"word{i} of the" for i in range(60)) + "."
ODD = {
    "nul": "\0" * 100 + PLAIN,
    "empty": "",
    "blank": " \n\u3000\u2028",
    "one": "a" * 5000,
    "signs": "!" * 5000,
    "marks": "e" + "\u0301" * 3000,
    "joined": "\u200d" * 3000,
    "rtl": "\u202e\u200f" + PLAIN + " שלום עולם",
    "flags": "🇩🇪" * 999,
    "dots": "." * 4001,
    "brackets": "[" * 3000 + "]",
    "feeds": "\n" * 5000,
}


@pytest.mark.parametrize("words", ["fast", "unicode"])
@pytest.mark.parametrize("dialect", ["datatrove", "dolma", "dclm"])
def test_odd_texts_are_measured_by_every_rule(tmp_path: Path, dialect: str, words: str) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text("".join(json.dumps({"id": k, "text": v}) + "\n" for k, v in ODD.items()))
    done = run_llm(
        "filter", path, "--annotate", "--rules", EVERY_RULE, "--dialect", dialect, "--words", words
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["text"] for record in found] == list(ODD.values())
    for record in found:
        assert set(record["metadata"]["measures"]) == set(EVERY_RULE.split(","))


@pytest.mark.parametrize("words", ["fast", "unicode"])
def test_a_lone_surrogate_is_a_malformed_record(tmp_path: Path, words: str) -> None:
    path, rejects = tmp_path / "in.jsonl", tmp_path / "rejects.jsonl"
    path.write_text('{"text": "half a pair: \\ud800"}\n' + json.dumps({"text": PLAIN}) + "\n")
    assert_user_error(run_llm("filter", path, check=False), 3, "in.jsonl:1")
    done = run_llm(
        "filter", path, "--rules", "length", "--words", words, "--on-error", "skip",
        "--rejects", rejects,
    )  # fmt: skip
    assert done.stdout.count(b"\n") == 1
    assert b"\\ud800" in rejects.read_bytes()


def test_an_edited_text_changes_no_other_byte(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    text = "One line stays as it is.\nthis one goes\nThe second ends well. \\u00e9 [12]Third."
    path.write_bytes(
        b'{"x" : 1.50,"text":  "' + text.replace("\n", "\\n").encode() + b'", "y":[ ]}\n'
    )
    done = run_llm("filter", path, "--rules", "c4", "--min-num-sentences", "1")
    left = "One line stays as it is.\\nThe second ends well. é Third."
    assert done.stdout == b'{"x" : 1.50,"text":  "' + left.encode() + b'", "y":[ ]}\n'


@pytest.mark.soak
@pytest.mark.parametrize("text", ["a", "a ", "!", "é", "a. ", "\n", "ab.\n"])
@pytest.mark.parametrize("words", ["fast", "unicode"])
def test_100_megabytes_of_one_thing_take_linear_time_and_bounded_memory(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "long.jsonl"
    long = text * (100_000_000 // len(text.encode()))
    path.write_text(json.dumps({"text": long}) + "\n" + json.dumps({"text": PLAIN}) + "\n")
    run_llm(
        "filter", path, "--annotate", "--rules", EVERY_RULE, "--words", words,
        "-o", tmp_path / "out.jsonl", timeout=600,
    )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak < 8 << 30
