"""`llm pretrain`: a decoder trained on packed shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmtools.commands.common import (
    Device,
    DryRun,
    Force,
    Seed,
    Threads,
    command,
    make_app,
    report,
    resume_command,
    show_plan,
)
from llmtools.commands.process import use_threads

app = make_app()


@command(
    app,
    "pretrain",
    examples=[
        "llm pretrain train/ --val val/ --model-config model.json --max-steps 2000 -o base/",
        "llm pretrain code/ --init base/ --tokenizer tokenizer.json --max-steps 500 -o code-base/",
    ],
)
def pretrain(
    packed: Annotated[Path, typer.Argument(help="A directory of packed shards (llm pack).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The run's directory.")],
    max_steps: Annotated[int, typer.Option("--max-steps", min=1, help="Optimizer steps.")],
    model_config: Annotated[
        Path | None,
        typer.Option("--model-config", help="A Hugging Face config.json; random weights."),
    ] = None,
    init: Annotated[Path | None, typer.Option("--init", help="Start from this model.")] = None,
    val: Annotated[
        Path | None, typer.Option("--val", help="Packed shards to measure the loss on.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", help="Copied into checkpoints.  [default: that of --init]"),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Peak rate.")] = 6e-4,
    min_lr_ratio: Annotated[float, typer.Option(help="Last rate / peak rate.")] = 0.1,
    lr_schedule: Annotated[
        Literal["cosine", "linear"], typer.Option(help="Decay after the warm-up.")
    ] = "cosine",
    warmup_steps: Annotated[
        int | None,
        typer.Option(min=0, help="Steps to the peak rate.  [default: a tenth, at most 2000]"),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a micro-batch.")] = 16,
    grad_accum: Annotated[int, typer.Option(min=1, help="Micro-batches of a step.")] = 1,
    adam_beta1: Annotated[float, typer.Option(help="Decay of the first moment.")] = 0.9,
    adam_beta2: Annotated[float, typer.Option(help="Decay of the second moment.")] = 0.95,
    weight_decay: Annotated[float, typer.Option(help="On matrices and embeddings alone.")] = 0.1,
    max_grad_norm: Annotated[float, typer.Option(help="Longer gradients are scaled down.")] = 1.0,
    dtype: Annotated[
        Literal["auto", "bf16", "fp32"],
        typer.Option(help="bf16: autocast, fp32 weights. auto: bf16 where native."),
    ] = "auto",
    eval_every: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between validations.  [default: first and last only]"),
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 1000,
    keep_last: Annotated[
        int | None, typer.Option(min=1, help="Checkpoints to keep.  [default: all]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Continue a matching unfinished run.")
    ] = True,
    force: Force = False,
    dry_run: DryRun = False,
    seed: Seed = 1,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train a decoder on packed shards; a run that was stopped continues with the same command.

    Rates, betas, decay and clipping default to nanoGPT's for 124M parameters; smaller models bear
    higher rates.
    """
    use_threads(threads)
    from llmtools.model.load import pick_device
    from llmtools.train.pretrain import PretrainInputs
    from llmtools.train.pretrain import pretrain as run
    from llmtools.train.settings import TrainSettings, pick_dtype

    settings = TrainSettings(
        max_steps=max_steps,
        batch_size=batch_size,
        grad_accum=grad_accum,
        learning_rate=learning_rate,
        min_lr_ratio=min_lr_ratio,
        lr_schedule=lr_schedule,
        warmup_steps=min(2000, max_steps // 10) if warmup_steps is None else warmup_steps,
        adam_beta1=adam_beta1,
        adam_beta2=adam_beta2,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        dtype=pick_dtype(dtype, pick_device(device)),
        seed=seed,
        eval_every=eval_every,
        save_every=save_every,
        keep_last=keep_last,
    )
    inputs = PretrainInputs(
        packed=packed,
        val=val,
        model_config=model_config,
        init=init,
        tokenizer=tokenizer,
        output=output,
        device=device,
        resume=resume,
        force=force,
        resume_command=resume_command("llm"),
    )
    if dry_run:
        from llmtools.plan.train import plan_pretrain

        show_plan(plan_pretrain(inputs, settings))
        return
    summary = run(inputs, settings)
    losses = [f"{k} {summary[k]:.4f}" for k in ("loss", "val_loss") if k in summary]
    report(summary, f"pretrain: step {summary['step']}, {', '.join(losses)}: {summary['model']}")
