"""`llm eval` beside lm-evaluation-harness' hf backend: HellaSwag and ARC-easy with SmolLM2-135M.

    python benchmarks/eval.py --data DIR [--limit N] [--rounds N]

DIR holds evals/hellaswag and evals/gauntlet. Whole processes with one thread each, in turn, loading
included; every round is run with N and with one example of each task, and the difference is what
the examples took. Both must give the same accuracies first. CPU seconds; median of the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from decode import find_model
from harness import Measurement, print_table, run_cpu
from llmtools.evals.hellaswag import HELLASWAG

ROOT = Path(__file__).parent.parent
ENV = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def write_local(evals: Path, folder: Path) -> dict[str, Path]:
    """The files that the harness reads: HellaSwag's six lines as JSON lines."""
    examples, _ = HELLASWAG.read(HELLASWAG.find(evals / "hellaswag"))
    rows = [{"query": e.context, "choices": e.choices, "gold": e.gold} for e in examples]
    local = folder / "hellaswag.jsonl"
    local.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"hellaswag": local, "arc_easy": evals / "gauntlet" / "arc_easy.jsonl"}


def accuracies(side: str, run: Measurement) -> dict[str, float]:
    found = json.loads(run.stdout.splitlines()[-1])
    if side == "ours":
        return {task: values["acc"] for task, values in found["results"].items()}
    return {t.removesuffix("_local"): v["results"]["acc,none"] for t, v in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    gguf, evals = find_model(), options.data / "evals"
    with tempfile.TemporaryDirectory() as folder:
        tasks = write_local(evals, Path(folder))
        parity = ROOT / "tests" / "parity"
        env = {**ENV, "HF_DATASETS_CACHE": f"{folder}/cache"}
        named = ("--tasks", ",".join(tasks), "--data", evals, "--threads", "1", "--json", "--limit")
        files = [f"{parity / name}.yaml={file}" for name, file in tasks.items()]

        def line(side: str, limit: int) -> list[str | Path]:
            if side == "ours":
                return [sys.executable, "-m", "llmtools", "eval", gguf, *named, str(limit)]
            script = parity / "harness_eval.py"
            return [sys.executable, script, gguf.parent, gguf.name, str(limit), *files]

        seconds: dict[str, list[float]] = {"ours": [], "harness": []}
        for _ in range(options.rounds):
            answers = {}
            for side in seconds:
                whole = run_cpu(line(side, options.limit), env)
                one = run_cpu(line(side, 1), env)
                answers[side] = accuracies(side, whole)
                seconds[side].append(whole.cpu_s - one.cpu_s)
            assert answers["ours"] == answers["harness"], answers
    count = len(tasks) * (options.limit - 1)
    rows = [
        (side, count / statistics.median(times), statistics.median(times))
        for side, times in seconds.items()
    ]
    print_table(("side", "examples / CPU s", "CPU s"), rows)
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["harness"], strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
