"""Where the model is that a command line names."""

from __future__ import annotations

from pathlib import Path

from llmtools.errors import InputError
from llmtools.formats.gguf import is_gguf
from llmtools.formats.hub import fetch, is_hub_name

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
LATEST = "latest"


def resolve_model(path: str | Path) -> Path:
    """The model directory, adapter directory or GGUF file that a MODEL argument stands for.

    A RUN directory of `llm pretrain` or `llm finetune` stands for the step its file `latest` names,
    hf:ORG/NAME[@REVISION] for a model of the hub (see hub.fetch).
    raises: InputError when there is none, saying what was found instead.
    """
    model = fetch(path) if is_hub_name(path) else Path(path)
    if model.is_file():
        if is_gguf(model):
            return model
        raise InputError(
            f"{model}: not a model: a model file is GGUF, other models are directories"
        )
    if not model.is_dir():
        raise InputError(f"{model}: no such model (a directory, a run, or a .gguf file)")
    if _is_model_dir(model):
        return model
    if (model / LATEST).is_file():
        return _latest_step(model)
    if any(model.glob("step-*")):
        raise InputError(f"{model}: a run without a finished checkpoint ({LATEST} is missing)")
    raise InputError(f"{model}: no {CONFIG}, {ADAPTER_CONFIG} or {LATEST} in this directory")


def _is_model_dir(path: Path) -> bool:
    return (path / CONFIG).is_file() or (path / ADAPTER_CONFIG).is_file()


def _latest_step(run: Path) -> Path:
    name = (run / LATEST).read_text("utf-8", errors="replace").strip()
    if not name or name != Path(name).name or name in (".", ".."):
        raise InputError(f"{run / LATEST}: {name!r} is not the name of a step directory")
    step = run / name
    if not _is_model_dir(step):
        raise InputError(f"{run / LATEST} names {name}, which is not a model directory")
    return step
