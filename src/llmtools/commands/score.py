"""`llm score`: numbers for documents, by a language model or another scorer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmtools.commands.common import (
    Device,
    DryRun,
    Force,
    Inputs,
    OnErrorFlag,
    Output,
    Rejects,
    TextKey,
    check_json_output,
    command,
    make_app,
    report,
    resolve_inputs,
    show_plan,
)
from llmtools.commands.process import lean_process, let_threads_sleep
from llmtools.errors import UsageError
from llmtools.formats.gguf import is_gguf
from llmtools.formats.hub import is_hub_name
from llmtools.formats.input_names import STDIO

if TYPE_CHECKING:
    from llmtools.data.scorer import Scorer

app = make_app()


def _is_model(path: str) -> bool:
    """A model directory, a GGUF file or a name of the hub, as opposed to a scorer's file."""
    return is_hub_name(path) or Path(path).is_dir() or is_gguf(Path(path))


@command(
    app,
    "score",
    has_units=True,
    examples=[
        "llm score docs.jsonl.zst --with lm.safetensors -o scored.jsonl.zst",
        "llm score docs.jsonl --with a.safetensors --name a --with b.safetensors --name b"
        " -o scored.jsonl",
        "llm score docs.jsonl --with SmolLM2-135M-Instruct.Q4_1.gguf -o scored.jsonl",
    ],
)
def score(
    *,
    inputs: Inputs = None,
    scorers: Annotated[
        list[str],
        typer.Option(
            "--with",
            help="A file of llm scorer train, .arpa, a fastText model or MODEL; again for more.",
        ),
    ],
    names: Annotated[
        list[str] | None,
        typer.Option("--name", help="Its name in metadata.scores; one for each --with."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="The model of a regression's vectors, where it has moved."),
    ] = None,
    normalize: Annotated[
        Literal["ccnet", "words", "none"] | None,
        typer.Option("--normalize", help=".arpa: for its texts.  [default: its manifest's, none]"),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option("--context", help="MODEL: tokens of a window.  [default: its own, to 2048]"),
    ] = None,
    device: Device = "auto",
    output: Output = STDIO,
    force: Force = False,
    dry_run: DryRun = False,
    on_error: OnErrorFlag = "fail",
    rejects: Rejects = None,
    text_key: TextKey = "text",
) -> None:
    """Add metadata.scores to documents; every other byte stays as it is."""
    for path in (output, rejects):
        check_json_output(path)
    if names and len(names) != len(scorers):
        raise UsageError(
            f"{len(scorers)} --with and {len(names)} --name; give each scorer a name, or none"
        )
    files = resolve_inputs(inputs)
    if any(map(_is_model, scorers)):
        let_threads_sleep()
    else:
        lean_process()
    from llmtools.data.score import check_names, score_documents

    loaded = _load(
        scorers, names, normalize=normalize, encoder=encoder, context=context, device=device
    )
    check_names(loaded)
    if dry_run:
        from llmtools.plan.scorer import plan_score

        show_plan(
            plan_score(
                files,
                output,
                scorers=scorers,
                rejects=rejects,
                on_error=on_error,
                text_key=text_key,
                force=force,
            )
        )
        return
    counts = score_documents(
        files,
        output,
        loaded,
        rejects=rejects,
        on_error=on_error,
        text_key=text_key,
        force=force,
    )
    without = {name: count for name, count in counts["without_score"].items() if count}
    listed = ", ".join(f"{count:,} without {name}" for name, count in without.items())
    report(counts, f"score: {counts['documents']:,} documents" + (f" ({listed})" * bool(listed)))


def _load(
    paths: list[str],
    names: list[str] | None,
    *,
    normalize: str | None,
    encoder: str | None,
    context: int | None,
    device: str,
) -> list[Scorer]:
    """All scorers; raises UsageError for a flag that none of them heeds."""
    from llmtools.data.regression import Embed
    from llmtools.data.scorer import NGramScorer, RegressionScorer, load_scorer

    def open_encoder(path: str) -> Embed:
        from llmtools.engine.embed import Embedder

        return Embedder(Path(path), device=device)

    loaded: list[Scorer] = []
    given: Sequence[str | None] = names or [None] * len(paths)
    for path, name in zip(paths, given, strict=True):
        if _is_model(path):
            from llmtools.engine.model_scorer import ModelScorer

            loaded.append(ModelScorer(path, name=name, context=context, device=device))
            continue
        loaded.append(
            load_scorer(
                path, name=name, normalize=normalize, encoder=encoder, open_encoder=open_encoder
            )
        )
    has_model = any(map(_is_model, paths))
    has_encoder = any(isinstance(one, RegressionScorer) for one in loaded)
    for flag, is_given, is_heeded in (
        ("--normalize", normalize, any(isinstance(one, NGramScorer) for one in loaded)),
        ("--context", context, has_model),
        ("--device", device != "auto" or None, has_model or has_encoder),
    ):
        if is_given is not None and not is_heeded:
            raise UsageError(f"{flag} has no effect on {', '.join(paths)}")
    return loaded
