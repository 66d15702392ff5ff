"""`llm eval` on multiple choice: layouts, results, resume, refusals; and `llm compare`."""

from __future__ import annotations

import bz2
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmtools.engine.choices import Choices, score_choices
from llmtools.errors import InputError
from llmtools.evals import run as evaluation
from llmtools.evals.arc import ARC_EASY
from llmtools.evals.hellaswag import HELLASWAG
from llmtools.evals.stats import bootstrap_interval, holm, mcnemar, mean_stderr
from support import assert_user_error, run_llm
from tiny_chat import save_base
from tiny_engine import tiny_decoder
from tiny_evals import write_questions

SIX_LINES = "Cooking: A woman cuts\n1\nthe sky.\nan onion.\na song.\na car.\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("eval") / "model")


def evaluate(model: Path, *args: str | Path, **keywords: Any) -> Any:
    return run_llm("eval", model, "--tasks", "hellaswag", *args, **keywords)


def test_results_and_samples_say_the_same(model: Path, tmp_path: Path) -> None:
    data = write_questions(tmp_path / "hellaswag_val.jsonl")
    done = evaluate(model, "--data", tmp_path, "-o", tmp_path / "out", "--json")
    assert str(data) in done.stderr.decode()
    shown = json.loads(done.stdout)["results"]["hellaswag"]
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert stored["results"]["hellaswag"] == shown and shown["n"] == 6
    task = stored["tasks"]["hellaswag"]
    assert task["task"] == "hellaswag@harness#1" and task["file"] == str(data)
    lines = (tmp_path / "out" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert [one["id"] for one in samples] == [str(n) for n in range(6)]
    for metric in ("acc", "acc_norm"):
        values = [one[metric] for one in samples]
        assert shown[metric] == sum(values) / 6
        expected = np.std(values, ddof=1) / np.sqrt(6)
        assert shown[f"{metric}_stderr"] == pytest.approx(expected)
    for one in samples:
        assert one["acc"] == (int(np.argmax(one["log_likelihoods"])) == one["gold"])


def test_a_stopped_run_goes_on_and_ends_in_the_same_bytes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_questions(tmp_path / "hellaswag_val.jsonl")
    monkeypatch.setattr("llmtools.evals.multiple_choice.BATCH_POSITIONS", 60)
    inputs = evaluation.EvalInputs(
        model=model,
        tasks="hellaswag",
        data=tmp_path,
        documents=[],
        limit=None,
        context=None,
        limit_tokens=None,
        minimum=(),
        text_key="text",
        base=None,
        device="cpu",
        output=tmp_path / "whole",
        resume=True,
        force=False,
    )
    results = evaluation.evaluate(inputs)
    whole = (tmp_path / "whole" / "samples.jsonl").read_bytes()
    out = tmp_path / "stopped"
    fields = {name: getattr(inputs, name) for name in inputs.__slots__} | {"output": out}
    stopped = evaluation.EvalInputs(**fields)
    scored = evaluation.score_batch
    calls = 0

    def dies(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return scored(*args)

    monkeypatch.setattr(evaluation, "score_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(stopped)
    left = (out / "samples.jsonl").read_bytes()
    assert left and left != whole and not (out / "results.json").exists()
    # What a kill in the middle of a write leaves: half a batch, half a line.
    with open(out / "samples.jsonl", "ab") as file:
        file.write(whole[len(left) :].splitlines(keepends=True)[0] + b'{"task": "hel')
    assert evaluation.evaluate(stopped) == results
    assert (out / "samples.jsonl").read_bytes() == whole
    assert 3 < calls


def test_an_unfinished_run_with_other_settings_is_refused(model: Path, tmp_path: Path) -> None:
    write_questions(tmp_path / "hellaswag_val.jsonl")
    out = tmp_path / "out"
    evaluate(model, "--data", tmp_path, "-o", out)
    done = evaluate(model, "--data", tmp_path, "-o", out, check=False)
    assert_user_error(done, 2, "exists", "-f")
    (out / "results.json").unlink()
    done = evaluate(model, "--data", tmp_path, "--limit", "2", "-o", out, check=False)
    assert_user_error(done, 2, "eval.limit was not set, now 2")
    done = evaluate(model, "--data", tmp_path, "-o", out, "--no-resume", check=False)
    assert_user_error(done, 2, "unfinished")
    write_questions(tmp_path / "hellaswag_val.jsonl", shift=1)
    done = evaluate(model, "--data", tmp_path, "-o", out, check=False)
    assert_user_error(done, 2, "data.hellaswag was")
    evaluate(model, "--data", tmp_path, "-o", out, "-f")


def test_a_minimum_that_is_missed_is_exit_1(model: Path, tmp_path: Path) -> None:
    write_questions(tmp_path / "hellaswag_val.jsonl")
    evaluate(model, "--data", tmp_path, "--min", "hellaswag.acc=0")
    done = evaluate(model, "--data", tmp_path, "--min", "hellaswag.acc_norm=1.5", check=False)
    assert_user_error(done, 1, "hellaswag.acc_norm is", "not at least 1.5")
    assert b"acc_norm" in done.stdout
    for bad in ("hellaswag.f1=0", "arc_easy.acc=0", "acc=0", "hellaswag.acc=x"):
        assert_user_error(
            evaluate(model, "--data", tmp_path, "--min", bad, check=False), 2, "--min"
        )


def test_flags_that_do_not_belong_together_are_all_named(model: Path, tmp_path: Path) -> None:
    done = run_llm("eval", model, "--tasks", "helaswag,perplexity,perplexity", check=False)
    assert_user_error(done, 2, "did you mean 'hellaswag'?", "'perplexity' is named twice")
    done = run_llm(
        *("eval", model, "--tasks", "perplexity", "--data", tmp_path, "--limit", "3"), check=False
    )
    assert_user_error(done, 2, "--documents and", "--data and", "--limit has no effect")
    done = evaluate(model, "--data", tmp_path, check=False)
    assert_user_error(done, 3, "no file of hellaswag", "hellaswag_val.jsonl")
    write_questions(tmp_path / "hellaswag_val.jsonl")
    write_questions(tmp_path / "hellaswag.jsonl")
    done = evaluate(model, "--data", tmp_path, check=False)
    assert_user_error(done, 3, "several files")


def test_six_lines_an_example(tmp_path: Path) -> None:
    file = tmp_path / "hellaswag_val_full.txt.bz2"
    file.write_bytes(bz2.compress((SIX_LINES * 3).encode()))
    assert HELLASWAG.find(tmp_path) == file
    examples, _ = HELLASWAG.read(file, 2)
    assert [e.id for e in examples] == ["0", "1"]
    assert examples[0].context == "Cooking: A woman cuts"
    assert (examples[0].choices[1], examples[0].gold) == ("an onion.", 1)


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        (SIX_LINES[:-8], "lines left"),
        (SIX_LINES.replace("\n1\n", "\none\n"), ":2: 'one'"),
        (SIX_LINES.replace("\n1\n", "\n7\n"), "answer 7 of 4"),
        (SIX_LINES.replace("a song.", ""), "none of them empty"),
        ("{}\n", "field 'ctx_a'"),
        ('{"ctx_a": 1}\n', "field"),
        ("{" * 5000 + "\n", "not JSON"),
        ("", "no example"),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), ""),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path: Path, text: str, mention: str) -> None:
    file = tmp_path / "hellaswag.txt"
    file.write_text(text)
    with pytest.raises(InputError, match=r"hellaswag\.txt") as caught:
        HELLASWAG.read(file)
    assert mention in str(caught.value)


def test_all_layouts_of_arc_are_one_question(tmp_path: Path) -> None:
    texts, labels = ["ice", "fire"], ["A", "B"]
    rows: list[dict[str, Any]] = [
        {"query": "Question: What is hot?", "choices": texts, "gold": 1},
        {
            "question": "What is hot?",
            "choices": {"text": texts, "label": labels},
            "answerKey": "B",
        },
        {
            "question": {
                "stem": "What is hot?",
                "choices": [{"text": t, "label": n} for t, n in zip(texts, labels, strict=True)],
            },
            "answerKey": "B",
        },
    ]
    (tmp_path / "arc_easy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples, _ = ARC_EASY.read(ARC_EASY.find(tmp_path))
    assert {(e.context, e.choices, e.gold) for e in examples} == {
        ("Question: What is hot?\nAnswer:", ("ice", "fire"), 1)
    }


def test_a_shared_context_scores_as_each_pair_alone() -> None:
    decoder = tiny_decoder()
    items = [
        Choices(context=[1, 2, 3, 4], continuations=[[5], [6, 7], [8, 9, 10], [5, 5]]),
        Choices(context=[9], continuations=[[1, 2], [3]]),
    ]
    together = score_choices(decoder, items)
    for item, found in zip(items, together, strict=True):
        for tail, one in zip(item.continuations, found, strict=True):
            ((alone,),) = score_choices(
                decoder, [Choices(context=item.context, continuations=[tail])]
            )
            assert one.log_likelihood == pytest.approx(alone.log_likelihood, abs=1e-5)
            assert one.is_greedy == alone.is_greedy
    # The twin: another context scores otherwise.
    ((other, *_),) = score_choices(
        decoder, [Choices(context=[1, 2, 4, 3], continuations=items[0].continuations)]
    )
    assert abs(other.log_likelihood - together[0][0].log_likelihood) > 1e-3


def write_samples(folder: Path, right: list[int], prompt: str = "x") -> Path:
    folder.mkdir()
    rows = [
        {
            "task": "t@harness#1",
            "id": str(n),
            "prompt_hash": prompt,
            "acc": value,
            "acc_norm": value,
        }
        for n, value in enumerate(right)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_compare_counts_pairs_and_fails_only_when_surely_worse(tmp_path: Path) -> None:
    a = write_samples(tmp_path / "a", [1] * 30 + [0] * 10)
    worse = write_samples(tmp_path / "worse", [0] * 20 + [1] * 10 + [0] * 10)
    hardly = write_samples(tmp_path / "hardly", [0] * 2 + [1] * 28 + [1] + [0] * 9)
    done = run_llm("compare", a, worse, "--json")
    first = json.loads(done.stdout)["comparisons"][0]
    assert (first["n"], first["only_a"], first["only_b"]) == (40, 20, 0)
    assert first["difference"] == -0.5 and first["p"] == pytest.approx(2 / 2**20)
    assert first["interval"][0] <= -0.5 <= first["interval"][1] < 0
    failed = run_llm("compare", a, worse, "--fail-if", "worse", check=False)
    assert_user_error(failed, 1, "is worse than", "t@harness#1 acc (-0.5000)")
    run_llm("compare", worse, a, "--fail-if", "worse")
    run_llm("compare", a, hardly, "--fail-if", "worse")
    table = run_llm("compare", a, hardly).stdout.decode()
    assert "-0.0250" in table and "A only" in table
    done = run_llm("compare", a, hardly, "--fail-if", "worse", "--alpha", "1", check=False)
    assert_user_error(done, 2, "--alpha 1.0")
    again = [run_llm("compare", a, worse, "--seed", "3", "--json").stdout for _ in range(2)]
    assert again[0] == again[1]


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a = write_samples(tmp_path / "a", [1, 0, 1])
    other = write_samples(tmp_path / "b", [1, 0, 1], prompt="y")
    assert_user_error(run_llm("compare", a, other, check=False), 3, "other words", "3 of 3")
    done = run_llm("compare", a, tmp_path / "none", check=False)
    assert_user_error(done, 3, "samples.jsonl")
    fewer = write_samples(tmp_path / "c", [1, 0])
    assert b"1 examples are in one" in run_llm("compare", a, fewer).stderr
    (other / "samples.jsonl").write_text('{"task": 1}\n')
    assert_user_error(run_llm("compare", a, other, check=False), 3, ":1:", "not a sample")


def test_statistics_are_those_of_the_textbooks() -> None:
    assert mean_stderr([1, 0, 1, 1]) == pytest.approx(np.std([1, 0, 1, 1], ddof=1) / 2)
    assert mean_stderr([1.0]) == 0.0
    # 9 of 10 one way: 2 * (1 + 10) / 1024.
    assert mcnemar(9, 1) == mcnemar(1, 9) == pytest.approx(22 / 1024)
    assert mcnemar(0, 0) == 1.0 == mcnemar(5, 5)
    assert mcnemar(3000, 2000) < 1e-40
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        drawn = generator.choice([-1.0, 0.0, 1.0], 150, p=[0.2, 0.5, 0.3])
        low, high = bootstrap_interval(drawn, draws=600)
        assert (low, high) == bootstrap_interval(drawn, draws=600)
        covered += low <= 0.1 <= high
    assert 0.89 <= covered / 200 <= 0.99
