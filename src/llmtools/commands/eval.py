"""`llm eval`: measure a model on tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
    use_threads,
)
from llmtools.errors import UsageError
from llmtools.formats.manifest import Recorder
from llmtools.formats.stream import (
    STDIO,
    atomic_directory,
    check_output,
    claim_outputs,
    expand_inputs,
)

app = make_app()


@command(
    app,
    "eval",
    examples=[
        "llm eval base/ --tasks perplexity --documents held-out.jsonl",
        "llm eval tuned.gguf --tasks perplexity --documents book.txt --limit-tokens 20000 --json",
    ],
)
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model directory, run, adapter or GGUF file.")],
    tasks: Annotated[Literal["perplexity"], typer.Option("--tasks", help="What to measure.")],
    documents: Annotated[
        list[str], typer.Option("--documents", help="Documents to score; may be repeated.")
    ],
    context: Annotated[
        int | None,
        typer.Option("--context", help="Tokens of a window.  [default: the model's, at most 2048]"),
    ] = None,
    limit_tokens: Annotated[
        int | None, typer.Option("--limit-tokens", min=2, help="Score the first N tokens only.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="A directory for results.json.")
    ] = None,
    base: BaseModel = None,
    text_key: TextKey = "text",
    force: Force = False,
    dry_run: DryRun = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Measure a model: perplexity of documents, each scored by itself."""
    from llmtools.adapters.load import record_model
    from llmtools.evals.perplexity import evaluate_perplexity
    from llmtools.formats.model_path import resolve_model
    from llmtools.formats.results import write_results

    if output == STDIO:
        raise UsageError("-o names a directory for results.json; use --json for stdout")
    if output is not None:
        check_output(output, force=force)
    source = resolve_model(model)
    inputs = expand_inputs(documents)
    use_threads(threads)
    if dry_run:
        from llmtools.plan.model import plan_eval

        show_plan(
            plan_eval(
                model,
                inputs,
                base=base,
                device=device,
                text_key=text_key,
                context=context,
                limit_tokens=limit_tokens,
                output=output,
            )
        )
        return
    settings = {"tasks": tasks, "context": context, "limit_tokens": limit_tokens}
    recorder = Recorder("eval", settings)
    places = [] if output is None else [output]
    with claim_outputs(places, force=force, is_directory=True):
        result, identity = evaluate_perplexity(
            source,
            inputs,
            base=base,
            context=context,
            limit_tokens=limit_tokens,
            text_key=text_key,
            device=device,
            on_read=recorder.read,
        )
        if output is not None:
            record_model(source, recorder, base=base)
            weights = [file["digest"] for file in recorder.inputs if _is_weights(file["path"])]
            described = {"path": str(model), "digests": weights, "tokenizer": identity}
            with atomic_directory(output, force=force) as directory:
                write_results(directory, {tasks: result}, model=described, settings=settings)
                recorder.wrote_tree(directory)
                recorder.count(**result)
                recorder.write_beside(directory)
    if terminal.display().json:
        terminal.emit_json({"results": {tasks: result}})
        return
    rows = [(name, f"{value:.6g}" if isinstance(value, float) else value) for name, value in
            result.items()]  # fmt: skip
    terminal.emit_text(terminal.format_table(("metric", "value"), rows) + "\n")


def _is_weights(path: str) -> bool:
    return path.endswith((".safetensors", ".gguf")) and "/state/" not in path
