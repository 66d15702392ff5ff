"""Regression on vectors: against scikit-learn, from files of vectors, and from a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from llmtools.data.regression import dump_regression, fit, judge, load_regression
from llmtools.errors import InputError, LLMToolsError
from llmtools.formats import tensor_header
from llmtools.formats.vectors import open_vectors
from support import assert_user_error, run_llm
from tiny_chat import save_base


def examples(count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors whose columns differ in size and place, one of them constant, and noisy ratings."""
    chance = np.random.default_rng(seed)
    vectors = chance.normal(size=(count, 6)) * [1, 10, 0.1, 1, 3, 0] + [0, 5, -2, 1, 0, 7]
    ratings = vectors @ [1, 0.1, -4, 0, 0.5, 0] + chance.normal(size=count)
    return vectors.astype(np.float32), ratings


@pytest.mark.parametrize("l2", [0.01, 1.0])
def test_ratings_are_those_of_scikit_learn(l2: float) -> None:
    vectors, ratings = examples()
    scaler = StandardScaler().fit(vectors.astype(np.float64))
    expected = Ridge(alpha=l2 * len(vectors)).fit(
        scaler.transform(vectors.astype(np.float64)), ratings
    )
    found = fit(vectors, ratings, "linear", l2).scores(vectors)
    wanted = expected.predict(scaler.transform(vectors.astype(np.float64)))
    assert np.abs(found - wanted).max() < 1e-6
    # Another penalty would be found out.
    assert np.abs(fit(vectors, ratings, "linear", 2 * l2).scores(vectors) - wanted).max() > 1e-3


@pytest.mark.parametrize("l2", [0.01, 1.0])
def test_chances_are_those_of_scikit_learn(l2: float) -> None:
    vectors, ratings = examples()
    labels = (ratings > np.median(ratings)).astype(np.float64)
    scaler = StandardScaler().fit(vectors.astype(np.float64))
    peer = LogisticRegression(C=1 / (l2 * len(vectors)), tol=1e-10, max_iter=10_000)
    peer.fit(scaler.transform(vectors.astype(np.float64)), labels)
    wanted = peer.predict_proba(scaler.transform(vectors.astype(np.float64)))[:, 1]
    found = fit(vectors, labels, "logistic", l2).scores(vectors)
    assert np.abs(found - wanted).max() < 1e-5
    assert np.abs(fit(vectors, labels, "logistic", 2 * l2).scores(vectors) - wanted).max() > 1e-3


def test_it_is_judged_on_what_it_has_not_seen() -> None:
    model = fit(*examples(), "linear", 0.01)
    found = judge(model, *examples(seed=1))
    assert 0.7 < found["r2"] < 1
    assert 0.8 < found["spearman"] < 1


def test_a_score_does_not_depend_on_its_neighbours() -> None:
    vectors, ratings = examples()
    model = fit(vectors, ratings, "linear", 0.01)
    alone = [model.scores(vectors[i : i + 1])[0] for i in range(len(vectors))]
    assert np.array_equal(model.scores(vectors), alone)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    vectors, ratings = examples()
    model = fit(vectors, ratings, "linear", 0.01)
    path = tmp_path / "model.safetensors"
    data = b"".join(dump_regression(model))
    path.write_bytes(data)
    assert np.array_equal(load_regression(path).scores(vectors), model.scores(vectors))
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match=r"model\.safetensors"):
            load_regression(path)


@pytest.mark.parametrize(
    ("labels", "link", "l2", "says"),
    [
        ([0, 1, 2], "logistic", 0.1, "a label is 2"),
        ([1, 1, 1], "linear", 0.1, "nothing to learn"),
        ([0, 0, 1], "logistic", 0.0, "needs one above 0"),
    ],
)
def test_labels_that_cannot_be(labels: list[float], link: str, l2: float, says: str) -> None:
    vectors = np.array([[0.0], [1.0], [2.0]])
    with pytest.raises(LLMToolsError, match=says):
        fit(vectors, np.array(labels, np.float64), link, l2)


def test_vectors_of_both_formats_are_mapped(tmp_path: Path) -> None:
    vectors, _ = examples(5)
    for dtype in (np.float16, np.float32, np.float64):
        np.save(tmp_path / "v.npy", vectors.astype(dtype))
        assert np.array_equal(open_vectors(tmp_path / "v.npy"), vectors.astype(dtype))
        pieces = tensor_header.dump({"v": vectors.astype(dtype), "ids": np.arange(5)}, {})
        (tmp_path / "v.safetensors").write_bytes(b"".join(pieces))
        assert np.array_equal(open_vectors(tmp_path / "v.safetensors"), vectors.astype(dtype))
    np.save(tmp_path / "v.npy", np.asfortranarray(vectors))
    assert np.array_equal(open_vectors(tmp_path / "v.npy"), vectors)


def test_files_that_are_no_vectors(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    for values in (np.zeros(3), np.zeros((2, 2), int), np.array([[{}]]), np.zeros((0, 3))):
        np.save(path, values, allow_pickle=True)
        with pytest.raises(InputError, match=r"v\.npy"):
            open_vectors(path)
    np.save(path, np.zeros((100, 3)))
    data = path.read_bytes()
    for size in range(0, len(data), 50):
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match=r"v\.npy"):
            open_vectors(path)
    # A header that promises more than any machine has.
    path.write_bytes(data.replace(b"(100, 3)", b"(10**9,)", 1))
    with pytest.raises(InputError, match=r"v\.npy"):
        open_vectors(path)
    path.write_bytes(data.replace(b"(100, 3), }         ", b"(99999999999, 999), }", 1)[:-1])
    with pytest.raises(InputError, match=r"v\.npy"):
        open_vectors(path)


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    vectors, ratings = examples(60)
    lines = [
        json.dumps({"text": f"document {i} of {i % 7}", "label": rating})
        for i, rating in enumerate(ratings)
    ]
    (tmp_path / "rated.jsonl").write_text("\n".join(lines) + "\n")
    np.save(tmp_path / "v.npy", vectors)
    np.save(tmp_path / "short.npy", vectors[1:])
    return tmp_path


def test_train_on_a_file_of_vectors(rated: Path) -> None:
    line = ["scorer", "train", "rated.jsonl", "--kind", "regression", "--vectors", "v.npy"]
    done = run_llm(*line, "--json", "-o", "r.safetensors", cwd=rated)
    counts = json.loads(done.stdout)
    assert (counts["documents"], counts["held_out"], counts["dim"]) == (60, 6, 6)
    assert counts["r2"] > 0.5
    done = run_llm("score", "rated.jsonl", "--with", "r.safetensors", check=False, cwd=rated)
    assert_user_error(done, 2, "--encoder names their model")


def test_train_and_score_with_a_model(rated: Path) -> None:
    save_base(rated / "base")
    line = ["scorer", "train", "rated.jsonl", "--kind", "regression", "--encoder", "base"]
    run_llm(*line, "-o", "r.safetensors", cwd=rated)
    scored = run_llm("score", "rated.jsonl", "--with", "r.safetensors", cwd=rated).stdout
    values = [json.loads(row)["metadata"]["scores"]["regression"] for row in scored.splitlines()]
    assert len(values) == 60
    assert np.ptp(values) > 0
    # Documents one by one, and with others before them: the same bits.
    last = (rated / "rated.jsonl").read_bytes().splitlines(keepends=True)[-1]
    alone = run_llm("score", "--with", "r.safetensors", stdin=last, cwd=rated).stdout
    assert alone == scored.splitlines(keepends=True)[-1]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["-o", "r.safetensors"], 2, "either --vectors FILE or --encoder MODEL"),
        (["--vectors", "v.npy", "-o", "r.bin"], 2, "name FILE.safetensors"),
        (["--vectors", "short.npy", "-o", "r.safetensors"], 3, "59 vectors for 60 documents"),
        (["--vectors", "v.npy", "--label-key", "text", "-o", "r.safetensors"], 3, "not a number"),
        (["--vectors", "v.npy", "--on-error", "skip", "-o", "r.safetensors"], 2, "--on-error skip"),
        (["--vectors", "rated.jsonl", "-o", "r.safetensors"], 3, "neither .npy nor .safetensors"),
    ],
)
def test_mistakes_have_one_message(rated: Path, args: list[str], code: int, says: str) -> None:
    line = ["scorer", "train", "rated.jsonl", "--kind", "regression", *args]
    assert_user_error(run_llm(*line, check=False, cwd=rated), code, says)
    assert not (rated / "r.safetensors").exists()
