"""state/ of a checkpoint: the optimizer's moments and the place in the data.

Nothing else is needed to continue bit for bit: the learning rate and the order of rows are
functions of the step, and every step seeds the random numbers it draws.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from llmtools.errors import InputError
from llmtools.formats.checkpoint import SafetensorsFile, read_json_object, save_tensors
from llmtools.train.optim import load_optimizer, optimizer_tensors

FOLDER = "state"
OPTIMIZER = "optimizer.safetensors"
PLACE = "place.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far a run has come: steps done, rows and tokens consumed."""

    step: int = 0
    rows: int = 0
    tokens: int = 0


def write_state(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, place: Place
) -> None:
    """Write state/ into a checkpoint that is being filled."""
    folder = checkpoint / FOLDER
    folder.mkdir()
    tensors = {k: v.to("cpu").contiguous() for k, v in optimizer_tensors(model, optimizer).items()}
    save_tensors(folder / OPTIMIZER, tensors)
    (folder / PLACE).write_text(json.dumps(asdict(place)) + "\n", "utf-8")


def read_state(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Place:
    """Put the optimizer back; raises InputError where the files are damaged or do not fit."""
    folder = checkpoint / FOLDER
    file = SafetensorsFile(folder / OPTIMIZER)
    tensors = {name: file.load(name) for name in file.tensors}
    load_optimizer(model, optimizer, tensors, str(file.path))
    values = read_json_object(folder / PLACE)
    names = Place.__dataclass_fields__
    counts = [v for v in values.values() if type(v) is int and v >= 0]
    if values.keys() != names.keys() or len(counts) != len(names):
        raise InputError(f"{folder / PLACE}: needs {', '.join(names)} as counts, has {values}")
    if checkpoint.name != f"step-{values['step']:06d}":
        raise InputError(f"{folder / PLACE}: step {values['step']} in {checkpoint.name}")
    return Place(**values)


def step_seed(seed: int, step: int) -> int:
    """The seed of everything random in one step (dropout)."""
    return seed << 32 | step
