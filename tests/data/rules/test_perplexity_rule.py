"""Rule perplexity: limits, the model's own percentiles, and documents that have no perplexity."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from in_process import run_here
from support import assert_user_error

KNOWN = "the cat sat on the mat and the dog lay by the door".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of ten documents, and they, each odder than the one before, and one without words."""
    folder = tmp_path_factory.mktemp("perplexity")
    documents = []
    for number in range(10):
        words = [w if i % 10 >= number else f"odd{number}x{i}" for i, w in enumerate(KNOWN * 2)]
        documents.append({"id": f"d{number}", "text": " ".join(words)})
    lines = [orjson.dumps(document) for document in documents]
    (folder / "docs.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (folder / "more.jsonl").write_bytes(b"\n".join([*lines, b'{"id": "empty", "text": " "}']))
    train = [{"text": " ".join(KNOWN)} for _ in range(3)]
    (folder / "train.jsonl").write_bytes(b"\n".join(map(orjson.dumps, train)))
    line = ("scorer", "train", folder / "train.jsonl", "--order", "2")
    held = ("--held-out", folder / "docs.jsonl")
    run_here(*line, *held, "-o", folder / "lm.safetensors", check=True)
    run_here(*line, "-o", folder / "lm.arpa", check=True)
    return folder


def kept(place: Path, out: Path, *flags: str, model: str = "lm.safetensors") -> list[str]:
    line = ("--rules", "perplexity", "--perplexity", place / model)
    run_here("filter", place / "more.jsonl", *line, *flags, "-o", out, check=True)
    return [orjson.loads(row)["id"] for row in out.read_bytes().splitlines()]


def test_buckets_are_thirds_of_the_held_out_documents(place, tmp_path):
    found = [
        kept(place, tmp_path / name, "--perplexity-bucket", name)
        for name in ("head", "middle", "tail")
    ]
    assert [len(ids) for ids in found] == [3, 3, 4]
    assert [name for ids in found for name in ids] == [f"d{n}" for n in range(10)]
    both = kept(place, tmp_path / "both", "--perplexity-bucket", "head,tail")
    assert both == found[0] + found[2]
    narrow = ("--percentile-head", "10", "--percentile-tail", "90")
    assert len(kept(place, tmp_path / "n", "--perplexity-bucket", "middle", *narrow)) == 8


def test_a_limit_keeps_what_is_not_above_it(place, tmp_path):
    scored = tmp_path / "scored.jsonl"
    line = ("score", place / "more.jsonl", "--with", place / "lm.safetensors", "-o", scored)
    run_here(*line, check=True)
    rows = [orjson.loads(row) for row in scored.read_bytes().splitlines()]
    values = {row["id"]: row["metadata"]["scores"]["perplexity"] for row in rows}
    assert values["empty"] is None
    limit = values["d4"]
    wanted = [name for name, value in values.items() if value is not None and value <= limit]
    assert kept(place, tmp_path / "o", "--max-perplexity", repr(limit)) == wanted
    assert 0 < len(wanted) < 10
    arpa = kept(place, tmp_path / "a", "--max-perplexity", repr(limit * 1.00001), model="lm.arpa")
    assert arpa == wanted


def test_rejects_say_perplexity_bucket_or_that_there_are_no_words(place, tmp_path):
    no = tmp_path / "no.jsonl"
    flags = ("--perplexity-bucket", "head", "--max-perplexity", "1e9", "--rejects", str(no))
    kept(place, tmp_path / "out", *flags)
    found = {
        row["id"]: row["metadata"]["reject"]
        for row in map(orjson.loads, no.read_bytes().splitlines())
    }
    assert found["d9"]["value"] == "tail" and found["d9"]["measure"] == "perplexity_bucket"
    assert found["empty"]["value"] == "no words"


def test_annotate_gives_the_perplexity_and_the_bucket(place, tmp_path):
    out = tmp_path / "out"
    kept(place, out, "--perplexity-bucket", "head", "--annotate")
    rows = [orjson.loads(row)["metadata"]["measures"] for row in out.read_bytes().splitlines()]
    assert rows[0]["perplexity"]["perplexity_bucket"] == "head"
    assert rows[0]["perplexity"]["perplexity"] > 1
    assert rows[-1]["perplexity"] == {"perplexity": None, "perplexity_bucket": None}


@pytest.mark.parametrize(
    ("flags", "code", "mention"),
    [
        (["--rules", "perplexity", "--max-perplexity", "3"], 2, "--perplexity FILE"),
        (["--perplexity", "lm.safetensors"], 2, "--max-perplexity or --perplexity-bucket"),
        (["--perplexity", "lm.safetensors", "--perplexity-bucket", "top"], 2, "head, middle, tail"),
        (
            ["--perplexity=lm.safetensors", "--perplexity-bucket=head", "--percentile-head=70"],
            2,
            "must rise",
        ),
        (["--perplexity", "lm.arpa", "--perplexity-bucket", "head"], 3, "no percentiles"),
        (["--perplexity", "no.arpa", "--max-perplexity", "3"], 3, "no such file"),
        (["--perplexity", "docs.jsonl", "--max-perplexity", "3"], 3, "not a scorer"),
    ],
)
def test_what_cannot_be_is_refused(flags, code, mention, place, tmp_path):
    done = run_here("filter", "docs.jsonl", *flags, "-o", tmp_path / "out", cwd=place)
    assert_user_error(done, code, mention)
    assert not (tmp_path / "out").exists()
