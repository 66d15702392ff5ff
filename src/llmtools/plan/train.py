"""Plans of pretrain and finetune: every check of a real run, then memory, disk and time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmtools.align.finetune import FinetuneInputs
from llmtools.align.finetune import prepare as prepare_finetune
from llmtools.model.config import ModelConfig
from llmtools.plan.estimate import Estimate, Plan, matmul_rate
from llmtools.train.pretrain import PretrainInputs
from llmtools.train.pretrain import prepare as prepare_pretrain
from llmtools.train.run_directory import check_run
from llmtools.train.settings import TrainSettings
from llmtools.train.size import checkpoint_bytes, run_bytes

# The process with torch and this project loaded, measured.
BASE_BYTES = 350_000_000
# Of the rate of large products, what a training step reaches (docs/log.md).
SHARE_OF_RATE = 0.4
# fp32 weights, gradients and two moments.
TRAINED_BYTES = 16
FROZEN_BYTES = 4


def activation_bytes(config: ModelConfig, tokens: int, *, is_half: bool) -> float:
    """What the forward pass keeps for the backward pass of `tokens` tokens.

    A layer keeps its input and residual, both norms' outputs, queries, keys, values (each before
    and after rotation), the attention's output, and four vectors of the feed-forward's width; the
    loss keeps logits, their softmax and its gradient in fp32.
    """
    heads = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    layer = 4 * config.hidden_size + 3 * heads + 3 * keys + 4 * config.intermediate_size
    each = config.num_hidden_layers * layer * (2 if is_half else 4) + 3 * config.vocab_size * 4
    return float(tokens * each)


def plan_pretrain(inputs: PretrainInputs, settings: TrainSettings) -> Plan:
    """raises: what a real run would before its first step."""
    ready = prepare_pretrain(inputs, settings)
    check_run(inputs.output, ready.sections, resume=inputs.resume, force=inputs.force)
    row = ready.dataset.seq_len
    return _plan(
        "pretrain",
        inputs.output,
        ready.config,
        settings,
        device=ready.device,
        parameters=ready.parameters,
        trained=ready.parameters,
        stored=ready.parameters,
        tokens_per_row=row,
        validations=0 if ready.val is None else ready.val.num_rows * row,
        facts={"rows": ready.dataset.num_rows, "seq_len": row},
    )


def plan_finetune(inputs: FinetuneInputs) -> Plan:
    """raises: what a real run would before its first step."""
    ready = prepare_finetune(inputs)
    check_run(inputs.output, ready.sections, resume=inputs.resume, force=inputs.force)
    lengths = [len(one.input_ids) for one in ready.rows.conversations]
    validations = 0
    if ready.val_rows is not None:
        validations = sum(len(one.input_ids) for one in ready.val_rows.conversations)
    return _plan(
        "finetune",
        inputs.output,
        ready.config,
        ready.settings,
        device=ready.device,
        parameters=ready.parameters,
        trained=ready.trained,
        stored=ready.stored,
        tokens_per_row=sum(lengths) / len(lengths),
        validations=validations,
        longest_row=max(lengths),
        facts={"conversations": len(lengths), "longest_conversation": max(lengths)},
    )


def _plan(
    command: str,
    output: Path,
    config: ModelConfig,
    settings: TrainSettings,
    *,
    device: Any,
    parameters: int,
    trained: int,
    stored: int,
    tokens_per_row: float,
    validations: int,
    facts: dict[str, Any],
    longest_row: int | None = None,
) -> Plan:
    """validations: tokens of all validation rows."""
    micro_batch = settings.batch_size * round(longest_row or tokens_per_row)
    state = TRAINED_BYTES * trained + FROZEN_BYTES * (parameters - trained)
    saving = checkpoint_bytes(stored, trained)
    is_half = settings.dtype == "bf16"
    activations = activation_bytes(config, micro_batch, is_half=is_half)
    if is_half:
        # Autocast keeps a copy of each weight for the step.
        activations += 2 * parameters
    tokens = settings.max_steps * settings.rows_per_step * tokens_per_row
    times = 2
    if settings.eval_every is not None:
        times = 1 + -(-settings.max_steps // settings.eval_every)
    # Forward 2 operations a weight and token, backward twice that; frozen weights have no
    # gradient of their own.
    operations = (4 * parameters + 2 * trained) * tokens + 2 * parameters * validations * times
    rate = matmul_rate(device)
    return Plan(
        command=command,
        memory=Estimate(
            value=BASE_BYTES + state + saving + activations,
            basis=f"weights, gradients and moments {state:,}, activations of {micro_batch:,} tokens"
            f" {round(activations):,}, a checkpoint {saving:,}, the program {BASE_BYTES:,}",
        ),
        disk=Estimate(
            value=run_bytes(stored, trained, settings),
            basis=f"checkpoints of {saving:,} bytes that lie there at once",
        ),
        time=Estimate(
            value=operations / (rate * SHARE_OF_RATE),
            basis=f"{operations:.3g} operations at {SHARE_OF_RATE} of the {rate / 1e9:.0f} GFLOP/s"
            " that products reach here now",
        ),
        outputs=[str(output)],
        facts={
            "parameters": parameters,
            "trained_parameters": trained,
            "steps": settings.max_steps,
            "tokens": round(tokens),
            "dtype": settings.dtype,
            "device": str(device),
            **facts,
        },
    )
