"""Fine-tuning a model on conversations: checks, rows, the training loop, the finished model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import xxhash

from llmtools import terminal
from llmtools.adapters.inject import adaptable_layers, inject_lora, target_modules
from llmtools.adapters.load import is_adapter, load_any, record_model, shape_of, tokenizer_path_for
from llmtools.adapters.lora import LoraConfig
from llmtools.align.conversations import read_conversations
from llmtools.align.sft import ConversationRows, encode_conversations, with_template
from llmtools.config import Sections
from llmtools.errors import InputError, UsageError
from llmtools.formats.manifest import FILE_NAME as MANIFEST
from llmtools.formats.manifest import Recorder
from llmtools.formats.model_path import resolve_model
from llmtools.model.config import ModelConfig
from llmtools.model.decoder import Decoder
from llmtools.model.load import empty_decoder, pick_device
from llmtools.tokenizer.load import load_tokenizer
from llmtools.tokenizer.tokenizer import Tokenizer
from llmtools.train.loop import Job, train
from llmtools.train.model_files import AdapterModel, ModelFiles, WholeModel, generation_settings
from llmtools.train.pretrain import run_summary, unused_mistakes
from llmtools.train.run_directory import RunDirectory, check_apart, open_run, run_sections
from llmtools.train.settings import DType, Schedule, TrainSettings
from llmtools.train.size import check_run_space


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneInputs:
    """What a fine-tuning run reads, how long it trains, and where it writes.

    lora: None trains every weight. lora_target: 'all-linear' or layer names. Exactly one of
    max_steps and epochs; at most one of val and val_fraction. max_length: None is the model's.
    """

    model: Path
    data: list[str]
    val: list[str]
    val_fraction: float | None
    lora: LoraConfig | None
    lora_target: str
    max_length: int | None
    on_too_long: Literal["cut", "skip"]
    epochs: float | None
    max_steps: int | None
    warmup_steps: int | None
    learning_rate: float
    min_lr_ratio: float
    lr_schedule: Schedule
    weight_decay: float
    max_grad_norm: float
    batch_size: int
    grad_accum: int
    dtype: DType
    seed: int
    eval_every: int | None
    save_every: int
    output: Path
    device: str
    resume: bool
    force: bool
    resume_command: str

    def settings(self, num_rows: int) -> TrainSettings:
        """The run's settings once the number of conversations is known."""
        per_step = self.batch_size * self.grad_accum
        steps = self.max_steps or math.ceil((self.epochs or 1.0) * num_rows / per_step)
        warmup = math.ceil(0.03 * steps) if self.warmup_steps is None else self.warmup_steps
        return TrainSettings(
            max_steps=steps,
            batch_size=self.batch_size,
            grad_accum=self.grad_accum,
            learning_rate=self.learning_rate,
            min_lr_ratio=self.min_lr_ratio,
            lr_schedule=self.lr_schedule,
            warmup_steps=warmup,
            adam_beta2=0.999,
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            dtype=self.dtype,
            seed=self.seed,
            eval_every=self.eval_every,
            save_every=self.save_every,
            keep_last=1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run whose inputs have been checked; no weight of the model has been read.

    lora: with its layers named. parameters: weights of the model; trained: those that learn;
    stored: those that a checkpoint's model file holds. sections: of run.toml.
    """

    device: torch.device
    tokenizer: Tokenizer
    config: ModelConfig
    lora: LoraConfig | None
    rows: ConversationRows
    val_rows: ConversationRows | None
    settings: TrainSettings
    parameters: int
    trained: int
    recorder: Recorder
    sections: Sections

    @property
    def stored(self) -> int:
        return self.parameters if self.lora is None else self.trained


def prepare(inputs: FinetuneInputs) -> Prepared:
    """Check everything and read the conversations; raises like finetune."""
    _check(inputs)
    device = pick_device(inputs.device)
    config, _ = shape_of(inputs.model)
    tokenizer = with_template(load_tokenizer(tokenizer_path_for(inputs.model)))
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"{tokenizer.where} has {tokenizer.vocab_size} ids, the model {inputs.model} has"
            f" {config.vocab_size}"
        )
    shape = empty_decoder(config, "meta", torch.float32)
    parameters = trained = sum(p.numel() for p in shape.parameters())
    lora = _full_lora(inputs, shape)
    if lora is not None:
        layers = adaptable_layers(shape)
        trained = sum(
            lora.r * sum(layer.weight.shape)
            for name, layer in layers.items()
            if name.rpartition(".")[2] in lora.target_modules
        )
    recorder = Recorder("finetune", {})
    rows, val_rows, data = _read(inputs, tokenizer, config, recorder)
    settings = inputs.settings(rows.num_rows)
    mistakes = [
        *settings.mistakes(),
        *unused_mistakes(settings, has_val=val_rows is not None),
    ]
    if mistakes:
        raise UsageError("; ".join(mistakes))

    digest = record_model(inputs.model, recorder)
    model = {"path": str(inputs.model), "digest": digest, **_adapter_section(lora)}
    recorder.settings = {**settings.as_dict(), "model": model, "data": data}
    recorder.device = str(device)
    ready = Prepared(
        device=device,
        tokenizer=tokenizer,
        config=config,
        lora=lora,
        rows=rows,
        val_rows=val_rows,
        settings=settings,
        parameters=parameters,
        trained=trained,
        recorder=recorder,
        sections=run_sections(settings.as_dict(), model, data, device),
    )
    check_run_space(inputs.output, ready.stored, trained, settings)
    return ready


def finetune(inputs: FinetuneInputs) -> dict[str, Any]:
    """Train, or continue, a run whose directory becomes the model; returns its summary.

    raises: UsageError and InputError for what cannot be, ResourceError for a disk too small, before
    training; see train.loop.train.
    """
    ready = prepare(inputs)
    decoder = load_any(inputs.model)
    with open_run(inputs.output, ready.sections, resume=inputs.resume, force=inputs.force) as run:
        decoder = decoder.to(ready.device)
        if ready.lora is not None:
            inject_lora(decoder, ready.lora, seed=inputs.seed)
        if run.is_published:
            # A kill may have come before the last checkpoints were gone.
            run.finish_publishing()
            terminal.note(f"{inputs.output} is finished")
            return run_summary(inputs.output, inputs.output, decoder)
        _announce(decoder, ready.rows, ready.settings)
        job = Job(
            decoder=decoder,
            files=_files(inputs, decoder, ready.lora, ready.tokenizer),
            rows=ready.rows,
            val_rows=ready.val_rows,
            settings=ready.settings,
            run=run,
            recorder=ready.recorder,
            device=ready.device,
            resume_command=inputs.resume_command,
        )
        _publish(run, train(job), ready.recorder)
    return run_summary(inputs.output, inputs.output, decoder)


def _check(inputs: FinetuneInputs) -> None:
    mistakes = []
    if inputs.epochs is not None and inputs.max_steps is not None:
        mistakes.append("give either --epochs or --max-steps")
    if inputs.epochs is not None and not 0 < inputs.epochs < math.inf:
        mistakes.append(f"--epochs {inputs.epochs} must be positive")
    if inputs.val and inputs.val_fraction is not None:
        mistakes.append("give either --val or --val-fraction")
    if inputs.val_fraction is not None and not 0 < inputs.val_fraction < 1:
        mistakes.append(f"--val-fraction {inputs.val_fraction} must lie between 0 and 1")
    if inputs.lora is not None:
        if not 0 <= inputs.lora.dropout < 1:
            mistakes.append(f"--lora-dropout {inputs.lora.dropout} must lie in 0 to 1, 1 excluded")
        if is_adapter(resolve_model(inputs.model)):
            mistakes.append(
                f"{inputs.model} is an adapter; adapt its base instead, or train the merged model"
                " with --adapter none"
            )
    if mistakes:
        raise UsageError("; ".join(mistakes))
    check_apart(inputs.output, [inputs.model, *map(Path, inputs.data + inputs.val)])


def _full_lora(inputs: FinetuneInputs, decoder: Decoder) -> LoraConfig | None:
    """The adapter's shape with its layers named."""
    if inputs.lora is None:
        return None
    return LoraConfig(
        r=inputs.lora.r,
        alpha=inputs.lora.alpha,
        dropout=inputs.lora.dropout,
        target_modules=target_modules(decoder, inputs.lora_target),
    )


def _adapter_section(lora: LoraConfig | None) -> dict[str, Any]:
    if lora is None:
        return {"adapter": "none"}
    return {
        "adapter": "lora",
        "lora_r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "lora_target": ",".join(lora.target_modules),
    }


def _read(
    inputs: FinetuneInputs, tokenizer: Tokenizer, config: ModelConfig, recorder: Recorder
) -> tuple[ConversationRows, ConversationRows | None, dict[str, Any]]:
    """Rows to train on, rows to validate on, and what names them in run.toml."""
    limit = config.max_position_embeddings
    max_length = min(inputs.max_length or limit, limit)

    def encode(files: list[str]) -> tuple[ConversationRows, str]:
        seen = len(recorder.inputs)
        rows, counts = encode_conversations(
            read_conversations(files, recorder.read),
            tokenizer,
            max_length=max_length,
            on_too_long=inputs.on_too_long,
        )
        if not rows.num_rows:
            raise InputError(f"{', '.join(files)}: no conversation to train on")
        for what in ("cut", "skipped"):
            if counts[what]:
                terminal.warn(f"{counts[what]} conversations over {max_length} tokens were {what}")
        digests = "".join(str(entry["digest"]) for entry in recorder.inputs[seen:])
        return rows, xxhash.xxh3_128_hexdigest(digests.encode())

    rows, digest = encode(inputs.data)
    data: dict[str, Any] = {
        "path": " ".join(inputs.data),
        "digest": digest,
        "max_length": max_length,
        "on_too_long": inputs.on_too_long,
        "tokenizer": tokenizer.identity,
        "val_fraction": inputs.val_fraction,
    }
    val_rows: ConversationRows | None = None
    if inputs.val:
        val_rows, data["val_digest"] = encode(inputs.val)
        data["val_path"] = " ".join(inputs.val)
    elif inputs.val_fraction is not None:
        if rows.num_rows < 2:
            raise InputError(f"{', '.join(inputs.data)}: one conversation cannot be split")
        rows, val_rows = rows.split(inputs.val_fraction, inputs.seed)
        if not rows.num_rows:
            raise UsageError(f"--val-fraction {inputs.val_fraction} leaves nothing to train on")
    return rows, val_rows, data


def _files(
    inputs: FinetuneInputs, decoder: Decoder, lora: LoraConfig | None, tokenizer: Tokenizer
) -> ModelFiles:
    base = resolve_model(inputs.model)
    if lora is None:
        return WholeModel(decoder, tokenizer, generation_settings(base))
    return AdapterModel(decoder, lora, base.absolute(), tokenizer)


def _announce(decoder: Decoder, rows: ConversationRows, settings: TrainSettings) -> None:
    trained = sum(p.numel() for p in decoder.parameters() if p.requires_grad)
    total = sum(p.numel() for p in decoder.parameters())
    targets = sum(int(one.is_target.sum()) for one in rows.conversations)
    tokens = sum(len(one.input_ids) for one in rows.conversations)
    terminal.note(
        f"{terminal.human_count(trained)} of {terminal.human_count(total)} parameters,"
        f" {rows.num_rows:,} conversations ({targets:,} of {tokens:,} tokens are learned),"
        f" {settings.max_steps} steps of {settings.rows_per_step}, {settings.dtype}"
    )


def _publish(run: RunDirectory, checkpoint: Path, recorder: Recorder) -> None:
    """The last checkpoint's model becomes OUT itself; metrics.jsonl and run.toml stay in it."""
    recorder.outputs = []
    recorder.wrote_tree(checkpoint)
    recorder.outputs = [
        entry
        for entry in recorder.outputs
        if "/" not in entry["path"] and entry["path"] != MANIFEST
    ]
    run.publish(checkpoint)
    recorder.write_beside(run.path)
    run.finish_publishing()
