"""Pretraining on packed shards: everything is checked first, then the loop runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import xxhash

from llmtools import terminal
from llmtools.adapters.load import TOKENIZER, load_any, record_model, shape_of
from llmtools.config import Sections
from llmtools.errors import UsageError
from llmtools.formats.describe_run import describe_run
from llmtools.formats.manifest import Recorder
from llmtools.formats.model_path import resolve_model
from llmtools.formats.packed import PATTERN, PackedDataset
from llmtools.model.config import ModelConfig, load_config
from llmtools.model.decoder import Decoder
from llmtools.model.load import count_parameters, empty_decoder, pick_device
from llmtools.tokenizer.load import load_tokenizer
from llmtools.tokenizer.tokenizer import Tokenizer
from llmtools.train.data import ShardRows
from llmtools.train.loop import Job, train
from llmtools.train.model_files import WholeModel, generation_settings
from llmtools.train.run_directory import check_apart, open_run, run_sections
from llmtools.train.settings import TrainSettings
from llmtools.train.size import check_run_space


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainInputs:
    """What a pretraining run reads, and where it writes.

    Exactly one of model_config (a Hugging Face config.json: random weights) and init (any model:
    its weights). tokenizer: copied into every checkpoint.
    """

    packed: Path
    val: Path | None
    model_config: Path | None
    init: Path | None
    tokenizer: Path | None
    output: Path
    device: str
    resume: bool
    force: bool
    resume_command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run whose inputs have been checked; no weight of --init has been read.

    sections: of run.toml. parameters: weights of the model, all of which are trained.
    """

    device: torch.device
    dataset: PackedDataset
    val: PackedDataset | None
    tokenizer: Tokenizer | None
    config: ModelConfig
    parameters: int
    recorder: Recorder
    sections: Sections


def prepare(inputs: PretrainInputs, settings: TrainSettings) -> Prepared:
    """Check everything; raises like pretrain."""
    device = pick_device(inputs.device)
    if (inputs.model_config is None) == (inputs.init is None):
        raise UsageError("give either --model-config (random weights) or --init (a model's)")
    read = (inputs.packed, inputs.val, inputs.model_config, inputs.init, inputs.tokenizer)
    check_apart(inputs.output, read)
    dataset = PackedDataset(inputs.packed)
    val = None if inputs.val is None else PackedDataset(inputs.val)
    tokenizer = _tokenizer(inputs)
    if inputs.init is None:
        config = _config(inputs.model_config, dataset)
    else:
        config, _ = shape_of(inputs.init)
    mistakes = [
        *settings.mistakes(),
        *unused_mistakes(settings, has_val=inputs.val is not None),
        *_data_mistakes(dataset, config),
        *([] if val is None else _val_mistakes(val, dataset, config)),
        *_tokenizer_mistakes(tokenizer, dataset),
    ]
    if mistakes:
        raise UsageError("; ".join(mistakes))

    recorder = Recorder("pretrain", settings.as_dict())
    model_section = _model_section(inputs, config, recorder)
    data_section = {
        "path": str(inputs.packed),
        "digest": recorder.read_tree(inputs.packed, PATTERN),
    }
    if inputs.val is not None:
        data_section |= {
            "val_path": str(inputs.val),
            "val_digest": recorder.read_tree(inputs.val, PATTERN),
        }
    if tokenizer is not None:
        recorder.read_named(tokenizer.where)
    recorder.device = str(device)
    recorder.settings |= {"data": data_section, "model": model_section}
    parameters = count_parameters(config)
    check_run_space(inputs.output, parameters, parameters, settings)
    return Prepared(
        device=device,
        dataset=dataset,
        val=val,
        tokenizer=tokenizer,
        config=config,
        parameters=parameters,
        recorder=recorder,
        sections=run_sections(settings.as_dict(), model_section, data_section, device),
    )


def unused_mistakes(settings: TrainSettings, *, has_val: bool) -> list[str]:
    """Settings that could not have an effect."""
    if settings.eval_every is None or has_val:
        return []
    return ["--eval-every has no effect without validation data (--val)"]


def pretrain(inputs: PretrainInputs, settings: TrainSettings) -> dict[str, Any]:
    """Train, or continue, a run; returns its summary.

    raises: UsageError listing everything about the inputs that does not fit, InputError for a
    damaged one, ResourceError for a disk too small; for the rest see train.loop.train.
    """
    ready = prepare(inputs, settings)
    start = None if inputs.init is None else load_any(inputs.init)
    with open_run(inputs.output, ready.sections, resume=inputs.resume, force=inputs.force) as run:
        device = ready.device
        decoder = start.to(device) if start else _random(ready.config, settings.seed, device)
        _announce(decoder, ready.dataset, settings, ready.tokenizer)
        job = Job(
            decoder=decoder,
            files=WholeModel(decoder, ready.tokenizer, _generation(inputs)),
            rows=ShardRows(ready.dataset),
            val_rows=None if ready.val is None else ShardRows(ready.val),
            settings=settings,
            run=run,
            recorder=ready.recorder,
            device=device,
            resume_command=inputs.resume_command,
        )
        checkpoint = train(job)
    return run_summary(inputs.output, checkpoint, decoder)


def run_summary(output: Path, model: Path, decoder: Decoder) -> dict[str, Any]:
    """The closing report of a run: its model, size, and the last value of each metric."""
    last = describe_run(output)["last_metrics"] or {}
    kept = ("step", "loss", "val_loss", "learning_rate", "tokens", "epoch")
    return {
        "output": str(output),
        "model": str(model),
        "parameters": sum(p.numel() for p in decoder.parameters()),
        "trained_parameters": sum(p.numel() for p in decoder.parameters() if p.requires_grad),
        **{key: last[key] for key in kept if key in last},
    }


def _tokenizer(inputs: PretrainInputs) -> Tokenizer | None:
    """The one named, else the initial model's where it has one."""
    if inputs.tokenizer is not None:
        return load_tokenizer(inputs.tokenizer)
    if inputs.init is None:
        return None
    model = resolve_model(inputs.init)
    has_one = model.is_file() or (model / TOKENIZER).is_file()
    return load_tokenizer(model) if has_one else None


def _generation(inputs: PretrainInputs) -> dict[str, Any]:
    return {} if inputs.init is None else generation_settings(resolve_model(inputs.init))


def _config(path: Path | None, dataset: PackedDataset) -> ModelConfig:
    """A config file; the shards' BOS and EOS stand in where it names none."""
    assert path is not None
    config = load_config(path)
    vocabulary = dataset.vocabulary
    if config.bos_token_id is None:
        config = replace(config, bos_token_id=vocabulary.bos)
    if config.eos_token_id is None:
        config = replace(config, eos_token_id=vocabulary.eos)
    return config


def _data_mistakes(dataset: PackedDataset, config: ModelConfig) -> list[str]:
    found = []
    if not dataset.num_rows:
        found.append(f"{dataset.path} has no rows")
    # More ids than the tokenizer has are common: vocabularies are rounded up for speed.
    if dataset.vocab_size > config.vocab_size:
        found.append(
            f"{dataset.path} has token ids of a vocabulary of {dataset.vocab_size}, the model's"
            f" vocab_size is {config.vocab_size}"
        )
    if dataset.seq_len > config.max_position_embeddings:
        found.append(
            f"{dataset.path} has rows of seq_len {dataset.seq_len}, the model's"
            f" max_position_embeddings is {config.max_position_embeddings}"
        )
    return found


def _val_mistakes(val: PackedDataset, dataset: PackedDataset, config: ModelConfig) -> list[str]:
    found = _data_mistakes(val, config)
    if val.tokenizer != dataset.tokenizer:
        found.append(
            f"{val.path} was tokenized by another tokenizer ({val.tokenizer}) than {dataset.path}"
            f" ({dataset.tokenizer})"
        )
    return found


def _tokenizer_mistakes(tokenizer: Tokenizer | None, dataset: PackedDataset) -> list[str]:
    if tokenizer is None or tokenizer.identity == dataset.tokenizer:
        return []
    return [
        f"{tokenizer.where} is not the tokenizer of {dataset.path}: identity {tokenizer.identity},"
        f" the shards have {dataset.tokenizer}"
    ]


def _model_section(
    inputs: PretrainInputs, config: ModelConfig, recorder: Recorder
) -> dict[str, Any]:
    if inputs.init is not None:
        return {"path": str(inputs.init), "digest": record_model(inputs.init, recorder)}
    text = json.dumps(asdict(config), sort_keys=True)
    recorder.read_path(Path(str(inputs.model_config)))
    return {"path": str(inputs.model_config), "config": xxhash.xxh3_128_hexdigest(text.encode())}


def _random(config: ModelConfig, seed: int, device: torch.device) -> Decoder:
    decoder = empty_decoder(config, device, torch.float32)
    decoder.initialize(seed)
    return decoder


def _announce(
    decoder: Decoder, dataset: PackedDataset, settings: TrainSettings, tokenizer: Tokenizer | None
) -> None:
    count = terminal.human_count(sum(p.numel() for p in decoder.parameters()))
    rows = settings.rows_per_step
    epochs = settings.max_steps * rows / dataset.num_rows
    terminal.note(
        f"{count} parameters, {settings.max_steps} steps of {rows} rows x {dataset.seq_len} tokens"
        f" ({epochs:.2f} epochs), {settings.dtype}, warm-up {settings.warmup_steps} steps"
    )
    if tokenizer is None:
        terminal.warn(
            "the checkpoints will hold no tokenizer, so `llm generate` cannot run them;"
            " name it with --tokenizer"
        )
