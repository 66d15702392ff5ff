"""Multiple choice against lm-evaluation-harness 0.4.13's hf backend: same files, same model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmtools.engine.choices import Choices, Likelihood, score_choices
from llmtools.engine.load import load_with_tokenizer
from llmtools.evals.hellaswag import HELLASWAG
from llmtools.evals.multiple_choice import encode, sample
from llmtools.evals.task import Example
from llmtools.evals.tasks import TASKS
from support import run_llm

HERE = Path(__file__).parent
# Both sum some tens of fp32 log-probabilities; ours take the softmax in float64.
TOLERANCE = 1e-3
FILES = {"hellaswag": "hellaswag_val_full.txt.bz2", "arc_easy": "arc_easy.jsonl"}


def harness(gguf: Path, evals: Path, folder: Path, limit: int) -> dict[str, Any]:
    """What the harness says of the first examples, by our task names."""
    examples, _ = HELLASWAG.read(HELLASWAG.find(evals / "hellaswag"), limit)
    # It reads JSON lines: the same six lines in that form.
    rows = [{"query": e.context, "choices": e.choices, "gold": e.gold} for e in examples]
    local = folder / "hellaswag.jsonl"
    local.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = {"hellaswag": local, "arc_easy": evals / "gauntlet" / "arc_easy.jsonl"}
    done = subprocess.run(
        [
            *(sys.executable, HERE / "harness_eval.py", gguf.parent, gguf.name, str(limit)),
            *(f"{HERE / name}.yaml={data}" for name, data in tasks.items()),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: found[f"{name}_local"] for name in tasks}


def ours(gguf: Path, evals: Path, folder: Path, limit: int) -> tuple[dict[str, Any], list[Any]]:
    """Our results and samples of the same examples."""
    done = run_llm(
        *("eval", gguf, "--tasks", "hellaswag,arc_easy", "--data", evals, "--threads", "1"),
        *("--limit", str(limit), "-o", folder / "results", "--json"),
        timeout=3000,
    )
    lines = (folder / "results" / "samples.jsonl").read_text().splitlines()
    return json.loads(done.stdout)["results"], [json.loads(line) for line in lines]


def compare(gguf: Path, evals: Path, folder: Path, limit: int) -> None:
    theirs = harness(gguf, evals, folder, limit)
    results, samples = ours(gguf, evals, folder, limit)
    for name, peer in theirs.items():
        label = TASKS[name].label
        mine = [one for one in samples if one["task"] == label]
        assert len(mine) == len(peer["samples"]) == limit
        examples, _ = TASKS[name].read(TASKS[name].find(evals), limit)
        for one, example, other in zip(mine, examples, peer["samples"], strict=True):
            prompts = [[example.context, " " + choice] for choice in example.choices]
            assert prompts == other["prompts"]
            assert one["log_likelihoods"] == pytest.approx(
                [score for score, _ in other["scores"]], abs=TOLERANCE
            )
            assert one["is_greedy"] == [greedy for _, greedy in other["scores"]]
        for metric in ("acc", "acc_norm"):
            assert results[name][metric] == pytest.approx(peer["results"][f"{metric},none"])
            stderr = peer["results"][f"{metric}_stderr,none"]
            assert results[name][f"{metric}_stderr"] == pytest.approx(stderr, rel=1e-6)


@pytest.mark.network
@pytest.mark.slow
def test_20_examples_of_each_task_are_scored_as_the_harness_does(
    smollm2_gguf: Path, shared_data: Path, tmp_path: Path
) -> None:
    compare(smollm2_gguf, shared_data / "evals", tmp_path, 20)


@pytest.mark.network
@pytest.mark.soak
def test_200_examples_of_each_task_are_scored_as_the_harness_does(
    smollm2_gguf: Path, shared_data: Path, tmp_path: Path
) -> None:
    compare(smollm2_gguf, shared_data / "evals", tmp_path, 200)


@pytest.mark.network
def test_what_is_nearly_right_is_told_apart(smollm2_gguf: Path, shared_data: Path) -> None:
    """The twins: each is a mistake that has been made, and moves a score past the tolerance."""
    decoder, tokenizer = load_with_tokenizer(smollm2_gguf, device="cpu")
    task = TASKS["arc_easy"]
    (example, *_), _ = task.read(task.find(shared_data / "evals" / "gauntlet"), 1)
    limit = decoder.config.max_position_embeddings
    (item,) = encode(example, tokenizer, limit)
    ((right, *_),) = score_choices(decoder, [item])

    def score(context: list[int], tail: list[int]) -> float:
        choices = Choices(context=context, continuations=[tail])
        return score_choices(decoder, [choices])[0][0].log_likelihood

    context, tail = list(item.context), list(item.continuations[0])
    assert score(context, tail) == pytest.approx(right.log_likelihood, abs=1e-4)
    separate = tokenizer.encode(example.choices[0])
    bos = tokenizer.bos_id
    assert bos is not None and not tokenizer.adds_bos
    for wrong in (
        score(context, separate),
        score([bos, *context], tail),
        score(context[:-1], [context[-1], *tail]),
        score([*context, tail[0]], tail[1:]),
    ):
        assert abs(wrong - right.log_likelihood) > 10 * TOLERANCE


def test_lengths_without_the_space_in_front_decide_acc_norm() -> None:
    example = Example(id="0", context="Q", choices=("a", "bcd"), gold=1)
    record = sample("t", example, [Likelihood(-1.0, False), Likelihood(-2.9, False)])
    # -1 against -0.97 a character; with the space it would be -0.5 against -0.73.
    assert (record["acc"], record["acc_norm"]) == (0, 1)
    assert -1.0 / 2 > -2.9 / 4


def test_hellaswags_own_rows_are_cleaned_as_the_harness_does(tmp_path: Path) -> None:
    rows = [
        {
            "ind": 4,
            "activity_label": "Removing ice from car",
            "ctx_a": "[header] How to  do it [title] Begin. [substeps] Then,",
            "ctx_b": "the man WRITES  over [it]",
            "endings": [" a [title] b ", "[x] c  d", "e [step] f", "plain"],
            "label": "3",
        }
    ]
    file = tmp_path / "hellaswag_val.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = (
        "import json, sys, datasets\n"
        "from lm_eval.tasks.hellaswag.utils import process_docs\n"
        "rows = [json.loads(line) for line in open(sys.argv[1])]\n"
        "print(json.dumps(list(process_docs(datasets.Dataset.from_list(rows)))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, file], capture_output=True, text=True, check=True
    )
    (peer,) = json.loads(done.stdout.splitlines()[-1])
    ((mine,), _) = HELLASWAG.read(file)
    assert (mine.context, list(mine.choices), mine.gold) == (
        peer["query"],
        peer["choices"],
        peer["gold"],
    )
    assert mine.context != rows[0]["ctx_a"]
