"""The one training loop: of `llm pretrain`, `llm finetune`, whole models and adapters."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llmtools import terminal
from llmtools.errors import AnswerIsNo, InputError, InterruptedRun
from llmtools.formats.manifest import KEY, Recorder
from llmtools.model.decoder import Decoder
from llmtools.train.data import Loader, Rows, in_order
from llmtools.train.model_files import ModelFiles
from llmtools.train.optim import build_optimizer, set_learning_rate
from llmtools.train.run_directory import RunDirectory
from llmtools.train.schedule import learning_rate
from llmtools.train.settings import TrainSettings
from llmtools.train.state import Place, read_state, step_seed, write_state
from llmtools.train.watch import StopSignals


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a run needs. resume_command: the line that continues it, for messages."""

    decoder: Decoder
    files: ModelFiles
    rows: Rows
    val_rows: Rows | None
    settings: TrainSettings
    run: RunDirectory
    recorder: Recorder
    device: torch.device
    resume_command: str


def train(job: Job) -> Path:
    """Train to the last step, from the run's latest checkpoint; returns the last checkpoint.

    raises: AnswerIsNo when the loss is not finite, InterruptedRun after a signal, state saved.
    """
    settings = job.settings
    optimizer = build_optimizer(job.decoder, settings)
    loader = Loader(
        job.rows,
        batch_size=settings.batch_size,
        grad_accum=settings.grad_accum,
        seed=settings.seed,
        device=job.device,
    )
    checkpoint, place = _restore(job, optimizer)
    remaining = settings.max_steps - place.step
    with StopSignals() as signals, terminal.progress("train", remaining, "step") as bar:
        if place.step == 0 and job.val_rows is not None:
            job.run.log({"step": 0, "val_loss": evaluate(job)})
        while place.step < settings.max_steps:
            place, metrics = _step(job, optimizer, loader, place)
            is_last = place.step == settings.max_steps
            if job.val_rows is not None and (is_last or _is_due(place.step, settings.eval_every)):
                metrics["val_loss"] = evaluate(job)
            job.run.log(metrics)
            bar.update(1, **_shown(metrics))
            if is_last or signals.requested or _is_due(place.step, settings.save_every):
                checkpoint = _save(job, optimizer, place)
            if signals.requested and not is_last:
                raise InterruptedRun(
                    f"stopped after step {place.step} of {settings.max_steps}, saved in"
                    f" {checkpoint}; continue with:\n  {job.resume_command}"
                )
    assert checkpoint is not None
    return checkpoint


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _shown(metrics: dict[str, Any]) -> dict[str, str]:
    """What the progress bar says of a step."""
    shown = {"loss": f"{metrics['loss']:.3f}"}
    if "val_loss" in metrics:
        shown["val_loss"] = f"{metrics['val_loss']:.3f}"
    shown["tok/s"] = terminal.human_count(metrics["tokens_per_s"])
    return shown


def _restore(job: Job, optimizer: torch.optim.Optimizer) -> tuple[Path | None, Place]:
    """Everything as the latest checkpoint has it; with none, the start."""
    checkpoint = job.run.latest()
    if checkpoint is None:
        job.run.keep_metrics_until(-1)
        return None, Place()
    job.files.restore(checkpoint)
    place = read_state(checkpoint, job.decoder, optimizer)
    _record(job, place)
    job.run.keep_metrics_until(place.step)
    if place.step < job.settings.max_steps:
        terminal.note(f"continuing after step {place.step} ({checkpoint})")
    else:
        terminal.note(f"all {place.step} steps are done ({checkpoint})")
    return checkpoint, place


def _save(job: Job, optimizer: torch.optim.Optimizer, place: Place) -> Path:
    def fill(directory: Path) -> None:
        _record(job, place)
        job.files.write(directory, {KEY: job.recorder.id})
        write_state(directory, job.decoder, optimizer, place)
        job.recorder.outputs = []
        job.recorder.wrote_tree(directory)
        job.recorder.write_beside(directory)

    return job.run.save(place.step, fill, keep_last=job.settings.keep_last)


def _record(job: Job, place: Place) -> None:
    """Which checkpoint the manifest is of."""
    job.recorder.part = f"step-{place.step:06d}"
    job.recorder.count(steps=place.step, rows=place.rows, tokens=place.tokens)


def _autocast(job: Job) -> AbstractContextManager[None]:
    return torch.autocast(
        job.device.type, dtype=torch.bfloat16, enabled=job.settings.dtype == "bf16"
    )


def _step(
    job: Job, optimizer: torch.optim.Optimizer, loader: Loader, place: Place
) -> tuple[Place, dict[str, Any]]:
    """One optimizer step over grad_accum micro-batches, and its line of metrics."""
    started = time.perf_counter()
    settings, step = job.settings, place.step + 1
    torch.manual_seed(step_seed(settings.seed, step))
    rate = learning_rate(step, settings)
    set_learning_rate(optimizer, rate)
    job.decoder.train()

    batches = loader.micro_batches(step)
    # Divided by the labels of the whole step, the gradient does not depend on how it is cut.
    num_labels = max(sum(batch.num_labels for batch in batches), 1)
    total = torch.zeros((), device=job.device)
    for batch in batches:
        with _autocast(job):
            loss = job.decoder.loss(batch.input_ids_T, batch.labels_T, batch.context)
        (loss / num_labels).backward()
        total += loss.detach()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm).item()
    mean_loss = total.item() / num_labels
    _check_finite(job, step, mean_loss, norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

    num_tokens = sum(batch.num_tokens for batch in batches)
    place = replace(
        place, step=step, rows=loader.position_after(step), tokens=place.tokens + num_tokens
    )
    return place, {
        "step": step,
        "loss": mean_loss,
        "learning_rate": rate,
        "grad_norm": norm,
        "tokens": place.tokens,
        "tokens_per_s": round(num_tokens / (time.perf_counter() - started), 1),
        "epoch": loader.epoch_after(step),
        "rows": [row for batch in batches for row in batch.rows],
    }


def _check_finite(job: Job, step: int, loss: float, norm: float) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    latest = job.run.latest()
    kept = f"the last checkpoint is {latest}" if latest else "nothing was saved yet"
    raise AnswerIsNo(
        f"step {step}: loss {loss}, gradient norm {norm}: training diverged; {kept}."
        " Start again with a lower --learning-rate or a longer --warmup-steps"
    )


@torch.no_grad()
def evaluate(job: Job) -> float:
    """Mean negative log-likelihood per label, in nats, over all validation rows in order."""
    assert job.val_rows is not None
    job.decoder.eval()
    total, num_labels = 0.0, 0
    for batch in in_order(job.val_rows, job.settings.batch_size, job.device):
        with _autocast(job):
            loss = job.decoder.loss(batch.input_ids_T, batch.labels_T, batch.context)
        total += loss.item()
        num_labels += batch.num_labels
    if not num_labels:
        raise InputError("the validation data has no token to predict")
    if not math.isfinite(total):
        raise AnswerIsNo(f"the validation loss is {total / num_labels}: training diverged")
    return total / num_labels
