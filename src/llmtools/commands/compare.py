"""`llm compare`: two evaluations of the same examples."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmtools import terminal
from llmtools.commands.common import Seed, command, make_app
from llmtools.errors import AnswerIsNo, UsageError

app = make_app()


@command(
    app,
    "compare",
    examples=[
        "llm compare results-base/ results-tuned/",
        "llm compare results-f16/ results-q4/ --fail-if worse --json",
    ],
)
def compare(
    a: Annotated[Path, typer.Argument(help="The results to compare with (llm eval -o).")],
    b: Annotated[Path, typer.Argument(help="The results that may be better or worse.")],
    fail_if: Annotated[
        Literal["worse"] | None,
        typer.Option("--fail-if", help="worse: exit 1 where B is significantly worse."),
    ] = None,
    alpha: Annotated[
        float, typer.Option("--alpha", help="With --fail-if: the p that counts as significant.")
    ] = 0.05,
    seed: Seed = 1,
) -> None:
    """Compare two results on the same examples, one by one.

    For each task and metric: both values, their difference with a 95 % interval (paired bootstrap),
    the examples that one alone has right, and p of the exact McNemar test, adjusted for the number
    of comparisons (Holm).
    """
    if not 0 < alpha < 1:
        raise UsageError(f"--alpha {alpha} must lie between 0 and 1")
    from llmtools.evals.compare import compare as run

    found = run(a, b, seed=seed)
    if terminal.display().json:
        rows = [asdict(one) | {"difference": one.difference} for one in found]
        terminal.emit_json({"comparisons": rows})
    else:
        header = (
            "task",
            "metric",
            "n",
            "A",
            "B",
            "B - A",
            "95 % interval",
            "A only",
            "B only",
            "p",
        )
        table = [
            (
                *(one.task, one.metric, one.n, f"{one.a:.4f}", f"{one.b:.4f}"),
                f"{one.difference:+.4f}",
                f"{one.interval[0]:+.4f} to {one.interval[1]:+.4f}",
                *(one.only_a, one.only_b, f"{one.p_holm:.3g}"),
            )
            for one in found
        ]
        terminal.emit_text(terminal.format_table(header, table) + "\n")
    worse = [one for one in found if one.difference < 0 and one.p_holm < alpha]
    if fail_if == "worse" and worse:
        names = ", ".join(f"{one.task} {one.metric} ({one.difference:+.4f})" for one in worse)
        raise AnswerIsNo(f"{b} is worse than {a}: {names}")
