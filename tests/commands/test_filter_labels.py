"""`llm filter` with a fastText model: languages, thresholds of each, labels of a classifier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtools.data.fasttext import FastText
from support import assert_user_error, run_llm
from text_batches import batch_of
from tiny_fasttext import TEXTS, write_model


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Documents and a model whose scores of them are as random as its rows."""
    write_model(tmp_path / "model.bin", minn=2, maxn=4)
    lines = [json.dumps({"id": f"d{i}", "text": text}) for i, text in enumerate(TEXTS)]
    (tmp_path / "docs.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def scores(place: Path) -> list[dict[str, float]]:
    model = FastText.load(place / "model.bin")
    batch = batch_of(TEXTS)
    found = model.scores(batch.buffer, batch.offsets).tolist()
    return [dict(zip(model.labels, row, strict=True)) for row in found]


def filtered(place: Path, *args: str) -> tuple[list[str], dict[str, dict[str, object]]]:
    """Ids of the documents that were kept, and why the others were not."""
    run_llm("filter", "docs.jsonl", *args, "--rejects", "no.jsonl", "-o", "out.jsonl", cwd=place)
    kept = [json.loads(line)["id"] for line in (place / "out.jsonl").read_text().splitlines()]
    dropped = [json.loads(line) for line in (place / "no.jsonl").read_text().splitlines()]
    return kept, {d["id"]: d["metadata"]["reject"] for d in dropped}


def test_each_language_has_its_threshold(place: Path) -> None:
    kept, dropped = filtered(
        place, "--rules", "language", "--lid-model", "model.bin",
        "--language-threshold", "en:0.2,ru:0.3",
    )  # fmt: skip
    wanted = [
        f"d{i}" for i, found in enumerate(scores(place)) if found["en"] >= 0.2 or found["ru"] >= 0.3
    ]
    assert kept == wanted
    assert 0 < len(kept) < len(TEXTS)
    for name, reject in dropped.items():
        found = scores(place)[int(name[1:])]
        best = max(found, key=lambda label: found[label])
        assert reject["rule"] == "language"
        if best in ("en", "ru"):
            assert reject["measure"] == "language_score"
            assert reject["value"] == found[best]
            assert reject["threshold"] == {"en": 0.2, "ru": 0.3}[best]
        else:
            assert reject["value"] == (best if found[best] else "")
            assert reject["threshold"] == "en,ru"


def test_languages_alone_add_the_rule(place: Path) -> None:
    args = ["--rules", "length", "--min-doc-words", "0", "--lid-model", "model.bin"]
    kept, _ = filtered(place, *args, "--languages", "en,ru", "--language-threshold", "0.25")
    wanted = [
        f"d{i}" for i, found in enumerate(scores(place)) if max(found["en"], found["ru"]) >= 0.25
    ]
    assert kept == wanted


def test_a_classifier_keeps_its_label(place: Path) -> None:
    kept, dropped = filtered(
        place, "--rules", "classifier", "--classifier", "model.bin", "--keep-label", "x y:0.2"
    )
    assert kept == [f"d{i}" for i, found in enumerate(scores(place)) if found["x y"] >= 0.2]
    assert len(kept) + len(dropped) == len(TEXTS)


def test_annotate_names_the_language_of_every_document(place: Path) -> None:
    done = run_llm(
        "filter", "docs.jsonl", "--rules", "language", "--languages", "en", "--lid-model",
        "model.bin", "--annotate", cwd=place,
    )  # fmt: skip
    documents = [json.loads(line)["metadata"] for line in done.stdout.splitlines()]
    assert len(documents) == len(TEXTS)
    for document, found in zip(documents, scores(place), strict=True):
        best = max(found, key=lambda label: found[label])
        assert document["language"] == (best if found[best] else None)
        assert document["language_score"] == found[best]
        assert ("reject" in document) == (found["en"] < 0.65)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--languages", "en"], 2, "--lid-model FILE"),
        (["--languages", "eng", "--lid-model", "model.bin"], 2, "did you mean 'en'"),
        (["--languages", "en", "--lid-model", "absent.bin"], 3, "absent.bin: No such file"),
        (["--languages", "en", "--lid-model", "docs.jsonl"], 3, "not a fastText model"),
        (["--rules", "language", "--lid-model", "model.bin", "--language-threshold", "2"], 2,
         "a score from 0 to 1"),
        (["--languages", "en", "--lid-model", "model.bin", "--language-threshold", "de:0.5"], 2,
         "do not name the same languages: en, de"),
        (["--classifier", "model.bin"], 2, "--keep-label LABEL:SCORE"),
        (["--classifier", "model.bin", "--keep-label", "en"], 2, "write LABEL:SCORE"),
        (["--rules", "classifier", "--keep-label", "en:0.5"], 2, "--classifier FILE"),
        (["--classifier", "model.bin", "--keep-label", "hq:0.5"], 2, "no such label"),
    ],
)  # fmt: skip
def test_mistakes_have_one_message(place: Path, args: list[str], code: int, says: str) -> None:
    done = run_llm("filter", "docs.jsonl", *args, "-o", "out.jsonl", check=False, cwd=place)
    assert_user_error(done, code, says)
    assert not (place / "out.jsonl").exists()
