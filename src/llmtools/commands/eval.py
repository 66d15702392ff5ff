"""`llm eval`: measure a model on tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmtools import terminal
from llmtools.commands.common import (
    BaseModel,
    Device,
    DryRun,
    Force,
    TextKey,
    Threads,
    command,
    make_app,
    show_plan,
)
from llmtools.commands.process import use_threads
from llmtools.errors import AnswerIsNo, UsageError
from llmtools.formats.input_names import STDIO

if TYPE_CHECKING:
    from llmtools.evals.run import EvalInputs

app = make_app()


@command(
    app,
    "eval",
    examples=[
        "llm eval tuned.gguf --tasks hellaswag,arc_easy --data evals/ --limit 200 -o results/",
        "llm eval base/ --tasks perplexity --documents held-out.jsonl --json",
    ],
)
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model directory, run, adapter or GGUF file.")],
    tasks: Annotated[
        str,
        typer.Option("--tasks", help="Names with commas: hellaswag, arc_easy, perplexity."),
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="The file of a task, or a directory that holds it."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="The first N examples of each task.")
    ] = None,
    documents: Annotated[
        list[str] | None,
        typer.Option("--documents", help="perplexity: documents to score; may be repeated."),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            help="perplexity: tokens of a window.  [default: the model's, at most 2048]",
        ),
    ] = None,
    limit_tokens: Annotated[
        int | None,
        typer.Option("--limit-tokens", min=2, help="perplexity: the first N tokens only."),
    ] = None,
    minimum: Annotated[
        list[str] | None,
        typer.Option("--min", help="Exit 1 below TASK.METRIC=VALUE; may be repeated."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="A directory for results.json and samples.jsonl."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where a run with -o stopped.")
    ] = True,
    base: BaseModel = None,
    text_key: TextKey = "text",
    force: Force = False,
    dry_run: DryRun = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Measure a model on multiple-choice tasks and by perplexity.

    Prompts and scores of hellaswag and arc_easy are those of lm-evaluation-harness; a run with -o
    that is stopped goes on with the same command.
    """
    if output == STDIO:
        raise UsageError("-o names a directory for results.json; use --json for stdout")
    use_threads(threads)
    from llmtools.evals.run import EvalInputs
    from llmtools.evals.run import evaluate as run

    inputs = EvalInputs(
        model=model,
        tasks=tasks,
        data=data,
        documents=documents or [],
        limit=limit,
        context=context,
        limit_tokens=limit_tokens,
        minimum=tuple(_parse_minimum(one) for one in minimum or []),
        text_key=text_key,
        base=base,
        device=device,
        output=None if output is None else Path(output),
        resume=resume,
        force=force,
    )
    if dry_run:
        _show_plan(inputs)
        return
    results = run(inputs)
    if terminal.display().json:
        terminal.emit_json({"results": results})
    else:
        rows = [
            (task, name, f"{value:.6g}" if isinstance(value, float) else value)
            for task, values in results.items()
            for name, value in values.items()
        ]
        terminal.emit_text(terminal.format_table(("task", "metric", "value"), rows) + "\n")
    if missed := inputs.missed(results):
        raise AnswerIsNo("; ".join(missed))


def _parse_minimum(given: str) -> tuple[str, str, float]:
    """'hellaswag.acc_norm=0.4' as task, metric and value."""
    name, _, value = given.partition("=")
    task, _, metric = name.partition(".")
    try:
        return task, metric, float(value)
    except ValueError as fault:
        message = f"--min {given!r}: write TASK.METRIC=VALUE, as hellaswag.acc_norm=0.4"
        raise UsageError(message) from fault


def _show_plan(inputs: EvalInputs) -> None:
    from llmtools.adapters.load import shape_of, tokenizer_path_for
    from llmtools.evals.run import count_positions
    from llmtools.formats.input_names import expand_inputs
    from llmtools.formats.output import check_output_directory
    from llmtools.formats.results import SETTINGS
    from llmtools.plan.model import plan_eval
    from llmtools.tokenizer.load import load_tokenizer

    output = inputs.output
    if output is not None and not (output / SETTINGS).is_file():
        check_output_directory(str(output), force=inputs.force)
    config, _ = shape_of(inputs.model, base=inputs.base)
    tokenizer = load_tokenizer(tokenizer_path_for(inputs.model, base=inputs.base))
    show_plan(
        plan_eval(
            inputs.model,
            expand_inputs(inputs.documents) if inputs.documents else [],
            base=inputs.base,
            device=inputs.device,
            text_key=inputs.text_key,
            context=inputs.context,
            limit_tokens=inputs.limit_tokens,
            choice_positions=count_positions(inputs, tokenizer, config.max_position_embeddings),
            output=None if output is None else str(output),
        )
    )
