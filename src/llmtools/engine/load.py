"""Any MODEL argument to an engine that is ready to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmtools.adapters.load import load_any, tokenizer_path_for
from llmtools.engine.defaults import read_generation_defaults
from llmtools.engine.engine import Engine
from llmtools.engine.sampling import Sampling
from llmtools.engine.scheduler import Limits
from llmtools.model import Decoder
from llmtools.model.load import pick_device
from llmtools.tokenizer.load import load_tokenizer
from llmtools.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """An engine, the tokenizer for its prompts, and the model's own sampling settings."""

    engine: Engine
    tokenizer: Tokenizer
    sampling: Sampling

    def sampling_with(self, given: Mapping[str, Any]) -> Sampling:
        """The model's settings with those that are given (not None) in their place."""
        return replace(self.sampling, **{k: v for k, v in given.items() if v is not None})


def load_engine(
    path: Path,
    *,
    base: Path | None = None,
    device: str = "auto",
    limits: Callable[[Decoder], Limits] | None = None,
) -> LoadedModel:
    """Load a model directory, run, GGUF file or adapter with its tokenizer.

    An answer ends at the stop ids of the tokenizer, the config and generation_config.json.
    raises: InputError naming the file for anything missing or malformed, before weights are read
    where the tokenizer or the settings are at fault.
    """
    place = pick_device(device)
    tokenizer_path = tokenizer_path_for(path, base=base)
    tokenizer = load_tokenizer(tokenizer_path)
    defaults = read_generation_defaults(tokenizer_path)
    decoder = load_any(path, base=base, device=place)
    engine = Engine(
        decoder,
        tokenizer,
        stop_ids=tokenizer.stop_ids | defaults.stop_ids | set(decoder.config.eos_token_ids),
        limits=None if limits is None else limits(decoder),
    )
    return LoadedModel(engine=engine, tokenizer=tokenizer, sampling=defaults.sampling)
