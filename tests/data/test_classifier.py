"""Training a classifier: what it learns, what it is held to, and that it is fastText's."""

from __future__ import annotations

import json
import random
from pathlib import Path

import fasttext
import numpy as np
import pytest

from llmtools.data.agreement import area_under_curve, explained, macro_area, rank_correlation
from llmtools.data.classifier import (
    ClassifierTraining,
    judge_classifier,
    train_classifier,
)
from llmtools.data.fasttext import FastText
from llmtools.data.labelled import hold_out
from llmtools.errors import InputError, UsageError
from llmtools.formats.fasttext import dump_fasttext
from support import assert_user_error, run_llm
from text_batches import batch_of

ANIMALS = "cat dog horse cow goat sheep größer 日本".split()
TOOLS = "hammer saw drill wrench pliers chisel file rasp".split()


def examples(count: int = 200, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts in which most words tell the label."""
    chance = random.Random(seed)
    texts, labels = [], []
    for number in range(count):
        own, other = (ANIMALS, TOOLS) if number % 2 else (TOOLS, ANIMALS)
        words = [chance.choice(own if chance.random() < 0.8 else other) for _ in range(12)]
        texts.append(" ".join(words))
        labels.append("animals" if number % 2 else "tools")
    return texts, labels


def encoded(texts: list[str]) -> list[bytes]:
    return [text.encode() for text in texts]


KINDS = [
    ClassifierTraining(),
    ClassifierTraining(word_ngrams=1, dim=5),
    ClassifierTraining(word_ngrams=3, min_chars=2, max_chars=4, buckets=1000),
]


@pytest.mark.parametrize("settings", KINDS)
def test_it_learns_and_fasttext_agrees(tmp_path: Path, settings: ClassifierTraining) -> None:
    trained = train_classifier(encoded(examples()[0]), examples()[1], settings)
    texts, labels = examples(seed=1)
    found = judge_classifier(trained.file, encoded(texts), labels)
    assert found["accuracy"] > 0.9
    assert found["auc"] > 0.95
    assert trained.losses[-1] < trained.losses[0]
    path = tmp_path / "model.bin"
    path.write_bytes(b"".join(dump_fasttext(trained.file, trained.word_counts)))
    model, peer = FastText.load(path), fasttext.load_model(str(path))
    batch = batch_of(texts)
    for text, row in zip(texts, model.scores(batch.buffer, batch.offsets), strict=True):
        names, scores = peer.predict(text, k=2)
        ours = [row[model.labels.index(name.removeprefix("__label__"))] for name in names]
        assert ours == pytest.approx(list(scores), abs=1e-5)


def test_the_same_seed_gives_the_same_model() -> None:
    texts, labels = examples()
    one, same = (train_classifier(encoded(texts), labels, ClassifierTraining()) for _ in range(2))
    other = train_classifier(encoded(texts), labels, ClassifierTraining(seed=2))
    assert np.array_equal(one.file.inputs, same.file.inputs)
    assert not np.array_equal(one.file.inputs, other.file.inputs)


def test_one_step_is_the_gradient_of_the_loss() -> None:
    """Against differences of the loss, computed in 64 bits from the rows alone."""
    texts, labels = ["cat dog cat"], ["animals"]
    base = {"word_ngrams": 1, "min_count": 1, "dim": 4, "epochs": 1, "learning_rate": 1e-3}
    trained = train_classifier(
        encoded([*texts, "saw"]), [*labels, "tools"], ClassifierTraining(**base, seed=3)
    )
    # Outputs begin at zero, so the first step moves each output row by rate * (y - 1/2) * hidden,
    # and the second, with a rate that has fallen to a half, nearly so.
    inputs = trained.file.inputs
    words = trained.file.words
    hidden = {
        "animals": np.mean([inputs[words.index(w)] for w in (b"cat", b"dog", b"cat", b"</s>")], 0),
        "tools": np.mean([inputs[words.index(w)] for w in (b"saw", b"</s>")], 0),
    }
    names = [label.decode().removeprefix("__label__") for label in trained.file.labels]
    possible = []
    for order in (("animals", "tools"), ("tools", "animals")):
        step = np.zeros((2, 4))
        for rate, text in zip((1e-3, 5e-4), order, strict=True):
            for row, name in enumerate(names):
                step[row] += rate * ((name == text) - 0.5) * hidden[text]
        possible.append(np.abs(step - trained.file.outputs).max())
    assert min(possible) < 1e-6 < max(possible)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(InputError, match="needs two"):
        train_classifier([b"a", b"b"], ["one", "one"], ClassifierTraining())
    with pytest.raises(InputError, match="no word stands 9 times"):
        train_classifier([b"a", b"b"], ["x", "y"], ClassifierTraining(word_ngrams=1, min_count=9))
    with pytest.raises(UsageError, match="min_chars 4 is above max_chars 2"):
        ClassifierTraining(min_chars=4, max_chars=2)
    with pytest.raises(UsageError, match="lower --learning-rate"):
        train_classifier(*_wild(), ClassifierTraining(learning_rate=100, epochs=50))


def _wild() -> tuple[list[bytes], list[str]]:
    texts, labels = examples(2000)
    return encoded(texts), labels


def test_the_area_counts_pairs_and_ties() -> None:
    scores = np.array([0.1, 0.4, 0.4, 0.8])
    positive = np.array([False, True, False, True])
    pairs = [(p, n) for p in scores[positive] for n in scores[~positive]]
    wanted = sum(1.0 if p > n else 0.5 * (p == n) for p, n in pairs) / len(pairs)
    assert area_under_curve(scores, positive) == pytest.approx(wanted)
    assert np.isnan(area_under_curve(scores, np.ones(4, bool)))
    both = np.stack([1 - scores, scores], axis=1).astype(np.float32)
    assert macro_area(both, positive.astype(np.int64)) == pytest.approx(wanted)
    assert rank_correlation(scores, scores**3) == pytest.approx(1)
    assert explained(scores, scores) == 1
    assert explained(np.full(4, scores.mean()), scores) == pytest.approx(0)


def test_parts_do_not_overlap_and_are_repeatable() -> None:
    trained_on, held = hold_out(100, 0.2, 7)
    assert len(held) == 20
    assert sorted([*trained_on, *held]) == list(range(100))
    assert np.array_equal(hold_out(100, 0.2, 7)[1], held)
    with pytest.raises(InputError, match="too few"):
        hold_out(2, 0.5, 1)


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    texts, labels = examples()
    lines = [
        json.dumps({"text": text, "metadata": {"about": label}})
        for text, label in zip(texts, labels, strict=True)
    ]
    (tmp_path / "rated.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_train_score_and_filter(rated: Path) -> None:
    train = ["scorer", "train", "rated.jsonl", "--kind", "classifier", "--json"]
    done = run_llm(*train, "--label-key", "metadata.about", "-o", "about.bin", cwd=rated)
    counts = json.loads(done.stdout)
    assert counts["documents"] == 200
    assert counts["held_out"] == 20
    assert counts["accuracy"] > 0.8
    assert sorted(counts["labels"]) == ["animals", "tools"]
    assert sum(counts["labels"].values()) == 180
    scored = run_llm("score", "rated.jsonl", "--with", "about.bin:tools", cwd=rated).stdout
    records = [json.loads(line) for line in scored.splitlines()]
    kept = run_llm(
        "filter", "rated.jsonl", "--rules", "classifier", "--classifier", "about.bin",
        "--keep-label", "tools:0.5", cwd=rated,
    ).stdout  # fmt: skip
    wanted = [r["text"] for r in records if r["metadata"]["scores"]["tools"] >= 0.5]
    assert [json.loads(line)["text"] for line in kept.splitlines()] == wanted
    assert 60 < len(wanted) < 140
    both = run_llm("score", "rated.jsonl", "--with", "about.bin", "--name", "a", cwd=rated).stdout
    first = json.loads(both.splitlines()[0])["metadata"]["scores"]
    assert first["a_tools"] == records[0]["metadata"]["scores"]["tools"]
    assert first["a_tools"] + first["a_animals"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["-o", "m.bin"], 3, "no field 'label' (fields: 'text', 'metadata')"),
        (["--label-key", "metadata", "-o", "m.bin"], 3, "the label is an object"),
        (["--label-key", "metadata.about", "-o", "m.safetensors"], 2, "name FILE.bin"),
        (["--label-key", "text", "--val-fraction", "1", "-o", "m.bin"], 2, "from 0 to 0.9"),
    ],
)
def test_mistakes_have_one_message(rated: Path, args: list[str], code: int, says: str) -> None:
    line = ["scorer", "train", "rated.jsonl", "--kind", "classifier", *args]
    assert_user_error(run_llm(*line, check=False, cwd=rated), code, says)
    assert [path.name for path in rated.iterdir()] == ["rated.jsonl"]


def test_a_label_that_the_model_lacks_is_named(rated: Path) -> None:
    line = ["--kind", "classifier", "--label-key", "metadata.about", "-o", "about.bin"]
    run_llm("scorer", "train", "rated.jsonl", *line, cwd=rated)
    done = run_llm("score", "rated.jsonl", "--with", "about.bin:tool", check=False, cwd=rated)
    assert_user_error(done, 2, "did you mean 'tools'")
