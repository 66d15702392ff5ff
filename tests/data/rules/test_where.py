"""Rule where: verdicts, and what is said of a field that no document has."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from in_process import run_here
from support import assert_user_error

DOCUMENTS = [
    {"id": "a", "text": "one", "metadata": {"scores": {"ppl": 10.5}}},
    {"id": "b", "text": "two", "metadata": {"scores": {"ppl": 99}}},
    {"id": "c", "text": "three", "metadata": {"scores": {"ppl": "high"}}},
    {"id": "d", "text": "four"},
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, DOCUMENTS)) + b"\n")
    return path


def records(path: Path) -> list[dict]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_the_documents_for_which_it_holds_stay_and_no_other_rule_applies(source, tmp_path):
    out, no = tmp_path / "out.jsonl", tmp_path / "no.jsonl"
    where = "metadata.scores.ppl < 50"
    run_here("filter", source, "--where", where, "-o", out, "--rejects", no, check=True)
    assert out.read_bytes() == source.read_bytes().splitlines(keepends=True)[0]
    found = {r["id"]: r["metadata"]["reject"] for r in records(no)}
    assert found["b"] == {"rule": "where", "measure": where, "value": "false", "threshold": "true"}
    assert found["c"]["value"] == "metadata.scores.ppl is a string"
    assert found["d"]["value"] == "no metadata.scores.ppl"


def test_with_rules_it_comes_after_them(source, tmp_path):
    out = tmp_path / "out.jsonl"
    line = ("--rules", "length", "--min-doc-words", "2", "--where", "true", "-o", out)
    assert_user_error(run_here("filter", source, *line), 3, "length 4, where 0")


def test_annotate_says_what_it_found(source, tmp_path):
    out = tmp_path / "out.jsonl"
    run_here("filter", source, "--where", "len(text) > 3", "--annotate", "-o", out, check=True)
    found = [r["metadata"]["measures"]["where"]["len(text) > 3"] for r in records(out)]
    assert found == [False, False, True, True]


def test_a_field_that_no_document_has_is_an_error_that_names_it(source, tmp_path):
    out = tmp_path / "out.jsonl"
    line = ("filter", source, "--where", "not metadata.scores.pp1 > 3", "-o", out)
    assert_user_error(run_here(*line), 3, "no document has the field metadata.scores.pp1")
    assert not out.exists()
    done = run_here("filter", source, "--where", "metadata.pp1 < 3", "--annotate", "-o", out)
    assert b"no document has the field metadata.pp1" in done.stderr


def test_documents_without_the_field_are_counted_in_a_warning_and_the_manifest(source, tmp_path):
    out = tmp_path / "out.jsonl"
    done = run_here("filter", source, "--where", "metadata.scores.ppl < 50", "-o", out, check=True)
    said = b"warning: --where: 1 of 4 documents have no answer, which is a no: the field is missing"
    assert said + b" (metadata.scores.ppl 1)\n" in done.stderr
    manifest = orjson.loads((tmp_path / "out.jsonl.manifest.json").read_bytes())
    assert manifest["counts"]["fields_missing"] == {"metadata.scores.ppl": 1}
    assert len(manifest["warnings"]) == 1
    where = 'has(metadata.scores) and metadata.scores.ppl != "high"'
    done = run_here("filter", source, "--where", where, "-f", "-o", out, check=True)
    assert b"warning" not in done.stderr


def test_a_wrong_expression_is_refused_before_anything_is_read(tmp_path):
    done = run_here("filter", "missing.jsonl", "--where", "a >", "-o", tmp_path / "out")
    assert_user_error(done, 2, "--where", "^")
    done = run_here("filter", "missing.jsonl", "--rules", "where", "-o", tmp_path / "out")
    assert_user_error(done, 2, "give one with --where")
