"""`llm finetune`: a model trained on conversations."""

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
from llmtools.errors import UsageError
from llmtools.formats.input_names import expand_inputs

app = make_app()

# Peak rates: trl's for whole models, axolotl's and the trl documentation's for LoRA.
FULL_RATE, LORA_RATE = 2e-5, 2e-4


@command(
    app,
    "finetune",
    examples=[
        "llm finetune base/ chat.jsonl --adapter lora --val-fraction 0.05 -o tuned/",
        "llm finetune base/ chat.jsonl --val held-out.jsonl --epochs 3 -o tuned/",
    ],
)
def finetune(
    model: Annotated[Path, typer.Argument(help="A model directory, a run, or a GGUF file.")],
    data: Annotated[list[str], typer.Argument(help="Conversations: messages, Alpaca, ShareGPT.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The directory to make.")],
    method: Annotated[
        Literal["sft"], typer.Option("--method", help="sft: learn the assistant's messages.")
    ] = "sft",
    adapter: Annotated[
        Literal["none", "lora"], typer.Option("--adapter", help="none: train every weight.")
    ] = "none",
    lora_r: Annotated[int | None, typer.Option(min=1, help="Rank.  [default: 16]")] = None,
    lora_alpha: Annotated[
        float | None, typer.Option(help="Changes are scaled by alpha / r.  [default: 32]")
    ] = None,
    lora_dropout: Annotated[float | None, typer.Option(help="[default: 0.05]")] = None,
    lora_target: Annotated[
        str | None,
        typer.Option(help="Layers, as q_proj,v_proj.  [default: all-linear]"),
    ] = None,
    val: Annotated[
        list[str] | None, typer.Option("--val", help="Conversations to measure the loss on.")
    ] = None,
    val_fraction: Annotated[
        float | None, typer.Option("--val-fraction", help="Hold out this part of DATA instead.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option("--epochs", help="Passes over DATA.  [default: 1]")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Optimizer steps instead of epochs.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak rate.  [default: 2e-5, with LoRA 2e-4]")
    ] = None,
    min_lr_ratio: Annotated[float, typer.Option(help="Last rate / peak rate.")] = 0.0,
    lr_schedule: Annotated[
        Literal["cosine", "linear"], typer.Option(help="Decay after the warm-up.")
    ] = "linear",
    warmup_steps: Annotated[
        int | None, typer.Option(min=0, help="Steps to the peak rate.  [default: 3 %]")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Conversations of a micro-batch.")] = 8,
    grad_accum: Annotated[int, typer.Option(min=1, help="Micro-batches of a step.")] = 1,
    weight_decay: Annotated[float, typer.Option(help="On matrices alone.")] = 0.0,
    max_grad_norm: Annotated[float, typer.Option(help="Longer gradients are scaled down.")] = 1.0,
    max_length: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens of a conversation.  [default: what the model reads]"),
    ] = None,
    on_too_long: Annotated[
        Literal["cut", "skip"], typer.Option(help="Keep the first tokens, or leave it out.")
    ] = "cut",
    dtype: Annotated[
        Literal["auto", "bf16", "fp32"],
        typer.Option(help="bf16: autocast, fp32 weights. auto: bf16 where native."),
    ] = "auto",
    eval_every: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between validations.  [default: first and last only]"),
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Continue a matching unfinished run.")
    ] = True,
    force: Force = False,
    dry_run: DryRun = False,
    seed: Seed = 1,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Fine-tune a model on conversations: every weight, or a LoRA adapter in PEFT's files.

    Learns the assistant's tokens alone. A run that was stopped continues with the same command.
    """
    lora_flags = {"r": lora_r, "alpha": lora_alpha, "dropout": lora_dropout, "target": lora_target}
    given = [f"--lora-{name}" for name, value in lora_flags.items() if value is not None]
    if adapter == "none" and given:
        raise UsageError(f"{', '.join(given)} have no effect without --adapter lora")
    files, val_files = expand_inputs(data), expand_inputs(val or [])
    use_threads(threads)
    from llmtools.adapters.lora import LoraConfig
    from llmtools.align.finetune import FinetuneInputs
    from llmtools.align.finetune import finetune as run
    from llmtools.model.load import pick_device
    from llmtools.train.settings import pick_dtype

    lora = LoraConfig(
        r=lora_r or 16,
        alpha=32.0 if lora_alpha is None else lora_alpha,
        dropout=0.05 if lora_dropout is None else lora_dropout,
    )
    rate = FULL_RATE if adapter == "none" else LORA_RATE
    inputs = FinetuneInputs(
        model=model,
        data=files,
        val=val_files,
        val_fraction=val_fraction,
        lora=lora if adapter == "lora" else None,
        lora_target=lora_target or "all-linear",
        max_length=max_length,
        on_too_long=on_too_long,
        epochs=epochs,
        max_steps=max_steps,
        warmup_steps=warmup_steps,
        learning_rate=rate if learning_rate is None else learning_rate,
        min_lr_ratio=min_lr_ratio,
        lr_schedule=lr_schedule,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        batch_size=batch_size,
        grad_accum=grad_accum,
        dtype=pick_dtype(dtype, pick_device(device)),
        seed=seed,
        eval_every=eval_every,
        save_every=save_every,
        output=output,
        device=device,
        resume=resume,
        force=force,
        resume_command=resume_command("llm"),
    )
    if dry_run:
        from llmtools.plan.train import plan_finetune

        show_plan(plan_finetune(inputs))
        return
    summary = run(inputs)
    losses = [f"{k} {summary[k]:.4f}" for k in ("loss", "val_loss") if k in summary]
    report(summary, f"finetune: step {summary['step']}, {', '.join(losses)}: {summary['model']}")
