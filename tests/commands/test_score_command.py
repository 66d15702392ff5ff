"""`llm scorer train` and `llm score` as they are used."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import orjson
import pytest

from in_process import run_here
from support import assert_user_error, run_llm
from tiny_chat import save_base

WORDS = "the capital of a land is one town and other towns lie near its rivers or on a hill".split()


def run_ok(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    return run_here(*args, cwd=cwd, check=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents, with spacing and numbers that re-encoding would change, and models of them."""
    folder = tmp_path_factory.mktemp("score")
    with open(folder / "docs.jsonl", "w") as out:
        for n in range(400):
            text = " ".join(WORDS[(n * i) % len(WORDS)] for i in range(5 + n % 40))
            out.write(
                f'{{"id": "d{n}",  "text": {json.dumps(text)}, "x": 1.50e3, "y": "\\u00e9"}}\n'
            )
    (folder / "more.jsonl").write_text('{"text": "a hill"}\n{"text": "a river of 12 towns"}\n')
    run_ok("scorer", "train", "docs.jsonl", "--order", "3", "-o", "lm.safetensors", cwd=folder)
    run_ok("scorer", "train", "docs.jsonl", "--order", "3", "-o", "lm.arpa.gz", cwd=folder)
    run_ok("scorer", "train", "more.jsonl", "-o", "small.safetensors", cwd=folder)
    save_base(folder / "base")
    return folder


def scores(path: Path) -> list[dict]:
    return [orjson.loads(line)["metadata"]["scores"] for line in path.read_bytes().splitlines()]


def test_scores_are_added_and_every_other_byte_stays(place, tmp_path):
    out = tmp_path / "out.jsonl"
    run_ok("score", "docs.jsonl", "--with", "lm.safetensors", "-o", out, cwd=place)
    before = (place / "docs.jsonl").read_bytes().splitlines()
    after = out.read_bytes().splitlines()
    for old, new, found in zip(before, after, scores(out), strict=True):
        assert new.startswith(old[:-1] + b',"metadata":{"scores":{"perplexity":')
        assert found["perplexity"] > 1


def test_scores_that_are_there_stay_unless_they_have_the_same_name(place, tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(
        '{"text": "a hill", "metadata": {"a": 1.0, "scores": {"own": 1.50, "perplexity": 7}}}\n'
        '{"text": "a hill", "metadata": {"scores": null}}\n{"text": "", "metadata": null}\n'
    )
    line = ("--with", place / "lm.safetensors", "-o", out, "--json")
    done = run_ok("score", source, *line, cwd=tmp_path)
    first, second, third = scores(out)
    assert b'"a": 1.0, "scores": {"own": 1.50, "perplexity": ' in out.read_bytes()
    assert first["own"] == 1.5 and first["perplexity"] == second["perplexity"] != 7
    assert third == {"perplexity": None}
    assert json.loads(done.stdout)["without_score"] == {"perplexity": 1}


def test_several_scorers_each_have_their_name(place, tmp_path):
    out = tmp_path / "out.jsonl"
    both = ("--with", "lm.safetensors", "--with", "small.safetensors")
    named = ("--name", "big", "--name", "small")
    run_ok("score", "docs.jsonl", *both, *named, "-o", out, cwd=place)
    assert all(set(row) == {"big", "small"} for row in scores(out))
    clash = run_here("score", "docs.jsonl", *both, "-o", tmp_path / "no", cwd=place)
    assert_user_error(clash, 2, "metadata.scores.perplexity", "--name")
    short = run_here("score", "docs.jsonl", *both, "--name", "a", cwd=place)
    assert_user_error(short, 2, "2 --with and 1 --name")


def test_workers_give_the_bytes_of_one_process(place, tmp_path):
    for name, flags in (("one", ()), ("two", ("--workers", "2", "--shard-bytes", "8K"))):
        line = ("score", "docs.jsonl", "--with", "lm.arpa.gz", *flags, "-o", tmp_path / name)
        run_llm(*line, cwd=place)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_model_scores_as_eval_measures_it(place, tmp_path):
    out = tmp_path / "out.jsonl"
    line = ("score", "more.jsonl", "--with", "base", "--context", "8", "-o", out)
    run_ok(*line, cwd=place)
    for number, text in enumerate(("a hill", "a river of 12 towns")):
        (tmp_path / f"{number}.txt").write_text(text)
        asked = ("--documents", tmp_path / f"{number}.txt", "--context", "8", "--json")
        done = run_ok("eval", "base", "--tasks", "perplexity", *asked, cwd=place)
        wanted = json.loads(done.stdout)["results"]["perplexity"]["nll_per_token"]
        found = scores(out)[number]["model_perplexity"]
        assert math.log(found) == pytest.approx(wanted, rel=1e-5)


def test_an_arpa_file_scores_as_its_safetensors_by_the_manifest_beside_it(place, tmp_path):
    for out, name in (("a", "lm.safetensors"), ("b", "lm.arpa.gz")):
        run_ok("score", "docs.jsonl", "--with", name, "-o", tmp_path / out, cwd=place)
    pairs = zip(scores(tmp_path / "a"), scores(tmp_path / "b"), strict=True)
    assert all(a["perplexity"] == pytest.approx(b["perplexity"], rel=1e-5) for a, b in pairs)
    alone = tmp_path / "alone.arpa.gz"
    alone.write_bytes((place / "lm.arpa.gz").read_bytes())
    more = ("score", place / "more.jsonl", "--with", alone)
    upper = tmp_path / "upper.jsonl"
    upper.write_text('{"text": "A HILL"}\n')
    for flags, is_known in (((), False), (("--normalize", "ccnet"), True)):
        out = tmp_path / f"{is_known}.jsonl"
        run_ok("score", upper, *more[2:], *flags, "-o", out, cwd=tmp_path)
        assert (scores(out)[0]["perplexity"] < 100) is is_known


def test_training_says_what_it_made_and_inspect_says_it_again(place, tmp_path):
    line = ("scorer", "train", "docs.jsonl", "--order", "2", "-o", tmp_path / "lm.safetensors")
    counts = json.loads(run_ok(*line, "--json", cwd=place).stdout)
    assert counts["documents"] == 400 and len(counts["ngrams"]) == 2
    assert counts["words"] == len(set(WORDS)) + 3 == counts["ngrams"][0]
    found = json.loads(run_ok("inspect", tmp_path / "lm.safetensors", "--json", cwd=place).stdout)
    assert found["kind"] == "n-gram language model"
    assert found["ngrams"] == " ".join(map(str, counts["ngrams"]))
    assert found["perplexity_percentiles"]["30"] <= found["perplexity_percentiles"]["60"]
    arpa = json.loads(run_ok("inspect", "lm.arpa.gz", "--json", cwd=place).stdout)
    assert (arpa["kind"], arpa["order"]) == ("n-gram language model (ARPA)", "3")


def test_percentiles_are_those_of_the_held_out_documents(place, tmp_path):
    out = tmp_path / "lm.safetensors"
    run_ok("scorer", "train", "docs.jsonl", "--held-out", "more.jsonl", "-o", out, cwd=place)
    run_ok("score", "more.jsonl", "--with", out, "-o", tmp_path / "s.jsonl", cwd=place)
    values = sorted(row["perplexity"] for row in scores(tmp_path / "s.jsonl"))
    found = json.loads(run_ok("inspect", out, "--json", cwd=place).stdout)
    half = found["perplexity_percentiles"]["50"]
    assert half == pytest.approx(sum(values) / 2)


@pytest.mark.parametrize(
    ("line", "code", "mentions"),
    [
        ("scorer train docs.jsonl -o lm.bin", 2, ["FILE.safetensors", "lm.bin"]),
        ("scorer train docs.jsonl -o lm.safetensors.zst", 2, ["FILE.safetensors"]),
        ("scorer train docs.jsonl --held-out more.jsonl -o x.arpa", 2, ["--held-out"]),
        ("scorer train docs.jsonl --held-out none.jsonl -o x.safetensors", 3, ["none.jsonl"]),
        ("scorer train docs.jsonl --prune 0,x -o x.arpa", 2, ["--prune", "0,0,1"]),
        ("scorer train docs.jsonl --order 99 -o x.arpa", 2, ["--order"]),
        ("scorer train blank.jsonl -o x.arpa", 3, ["no words"]),
        ("scorer train empty.jsonl -o x.arpa", 3, ["no documents"]),
        ("scorer train docs.jsonl --text-key body -o x.arpa", 3, ["body", "docs.jsonl:1"]),
        ("score docs.jsonl --with none.arpa -o x", 3, ["none.arpa"]),
        ("score docs.jsonl --with docs.jsonl -o x", 3, ["docs.jsonl", "not a scorer"]),
        ("score docs.jsonl --with base/model.safetensors -o x", 3, ["another kind"]),
        ("score docs.jsonl --with empty -o x", 3, ["empty", "config.json"]),
        ("score empty.jsonl --with lm.safetensors -o x", 3, ["no documents"]),
        ("score docs.jsonl --with lm.safetensors --context 4 -o x", 2, ["--context", "no effect"]),
        ("score docs.jsonl --with lm.safetensors --normalize none -o x", 2, ["ccnet"]),
        ("score docs.jsonl --with base --normalize none -o x", 2, ["--normalize"]),
        ("score docs.jsonl --with base --context 9999 -o x", 2, ["--context 9999", "128"]),
        ("score odd.jsonl --with lm.safetensors -o x", 3, ["odd.jsonl:1", "metadata.scores"]),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(line, code, mentions, place, tmp_path):
    for entry in place.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "blank.jsonl").write_text('{"text": " "}\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "odd.jsonl").write_text('{"text": "a", "metadata": {"scores": 3}}\n')
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    assert_user_error(run_here(*line.split(), cwd=tmp_path), code, *mentions)
    assert sorted(tmp_path.iterdir()) == before


def test_a_record_with_no_place_for_scores_can_be_skipped(tmp_path, place):
    (tmp_path / "odd.jsonl").write_text(
        '{"text": "a", "metadata": {"scores": 3}}\n{"text": "a", "metadata": 3}\n{"text": "a"}\n'
    )
    line = ("score", "odd.jsonl", "--with", place / "lm.safetensors", "-o", "out.jsonl")
    skip = ("--on-error", "skip", "--rejects", "no.jsonl")
    run_ok(*line, *skip, cwd=tmp_path)
    assert len(scores(tmp_path / "out.jsonl")) == 1
    reasons = [orjson.loads(r) for r in (tmp_path / "no.jsonl").read_bytes().splitlines()]
    assert len(reasons) == 2
