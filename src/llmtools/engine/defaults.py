"""What a model's own files say about generating with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmtools.engine.sampling import Sampling
from llmtools.errors import InputError, UsageError
from llmtools.formats.checkpoint import read_json_object

FILE = "generation_config.json"
SETTINGS = ("temperature", "top_k", "top_p", "min_p")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """sampling: where a request says nothing. stop_ids: that end an answer."""

    sampling: Sampling
    stop_ids: frozenset[int]


def read_generation_defaults(model: Path) -> GenerationDefaults:
    """Read generation_config.json of a model directory.

    Without `do_sample` the likeliest token is taken (temperature 0). With it, temperature is 1
    where the file gives none, and filters that the file does not name are off: transformers' own
    top_k of 50 is a default of its library, not of the model. A GGUF file holds no such settings.

    raises: InputError naming the file and every value out of range.
    """
    file = model / FILE
    if not file.is_file():
        return GenerationDefaults(sampling=Sampling(), stop_ids=frozenset())
    values = read_json_object(file)
    eos = values.get("eos_token_id")
    ids = [id for id in (eos if isinstance(eos, list) else [eos]) if id is not None]
    if not all(isinstance(id, int) for id in ids):
        raise InputError(f"{file}: eos_token_id is {eos!r}, not an id or a list of ids")
    stop_ids = frozenset(ids)
    given = {k: values[k] for k in SETTINGS if values.get(k) is not None}
    if not values.get("do_sample"):
        return GenerationDefaults(sampling=Sampling(), stop_ids=stop_ids)
    try:
        sampling = Sampling(**({"temperature": 1.0} | given))
    except UsageError as fault:
        raise InputError(f"{file}: {fault}") from fault
    return GenerationDefaults(sampling=sampling, stop_ids=stop_ids)
