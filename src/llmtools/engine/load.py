"""Any MODEL argument to an engine that is ready to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmtools.adapters.load import load_any, tokenizer_path_for
from llmtools.engine.cache import default_positions
from llmtools.engine.defaults import read_generation_defaults
from llmtools.engine.engine import Engine
from llmtools.engine.request import Request
from llmtools.engine.sampling import Sampling
from llmtools.engine.scheduler import DEFAULT_BATCH, DEFAULT_STEP_TOKENS, Limits
from llmtools.errors import InputError
from llmtools.model import Decoder
from llmtools.model.load import pick_device
from llmtools.tokenizer.load import load_tokenizer
from llmtools.tokenizer.tokenizer import Tokenizer

SAMPLING_KEYS = tuple(Sampling.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """An engine, the tokenizer for its prompts, and the model's own sampling settings."""

    engine: Engine
    tokenizer: Tokenizer
    sampling: Sampling

    def request(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        settings: Mapping[str, Any],
        default_max_tokens: int | None,
    ) -> Request:
        """A checked request; a setting that is absent or None is the model's own.

        settings: max_tokens, the fields of Sampling, stop (a text or several), ignore_eos.
        default_max_tokens: where settings say nothing, as far as it fits; None is all that fits.
        raises: InputError for a prompt that does not fit, UsageError for settings out of range.
        """
        max_tokens = settings.get("max_tokens")
        if max_tokens is None and default_max_tokens is not None:
            room = self.engine.config.max_position_embeddings - len(prompt_ids)
            max_tokens = max(1, min(default_max_tokens, room))
        given = {key: settings.get(key) for key in SAMPLING_KEYS}
        stop = settings.get("stop") or ()
        request = Request(
            id=request_id,
            prompt_ids=prompt_ids,
            max_tokens=max_tokens,
            sampling=replace(self.sampling, **{k: v for k, v in given.items() if v is not None}),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            ignore_eos=bool(settings.get("ignore_eos")),
        )
        self.engine.check(request)
        return request


def load_with_tokenizer(
    path: Path, *, base: Path | None = None, device: str = "auto"
) -> tuple[Decoder, Tokenizer]:
    """The decoder and tokenizer of a model directory, run, GGUF file or adapter.

    raises: InputError naming the file for anything missing or malformed, or where the two do not
    belong together; ResourceError for a device that is not there.
    """
    place = pick_device(device)
    tokenizer = load_tokenizer(tokenizer_path_for(path, base=base))
    decoder = load_any(path, base=base, device=place)
    if tokenizer.vocab_size > decoder.config.vocab_size:
        raise InputError(
            f"{path}: its tokenizer has {tokenizer.vocab_size} ids but the model"
            f" {decoder.config.vocab_size}; they do not belong together"
        )
    return decoder, tokenizer


def load_engine(
    path: Path,
    *,
    base: Path | None = None,
    device: str = "auto",
    max_batch: int = DEFAULT_BATCH,
) -> LoadedModel:
    """Load any MODEL with its tokenizer; raises as load_with_tokenizer does.

    max_batch: requests that run at once. An answer ends at the stop ids of the tokenizer, the
    config and generation_config.json.
    """
    defaults = read_generation_defaults(tokenizer_path_for(path, base=base))
    decoder, tokenizer = load_with_tokenizer(path, base=base, device=device)
    weight = decoder.model.embed_tokens.weight
    engine = Engine(
        decoder,
        tokenizer,
        stop_ids=tokenizer.stop_ids | defaults.stop_ids | set(decoder.config.eos_token_ids),
        limits=Limits(
            max_batch=max_batch,
            max_step_tokens=max(DEFAULT_STEP_TOKENS, max_batch),
            max_positions=default_positions(decoder.config, weight.device, weight.dtype),
        ),
    )
    return LoadedModel(engine=engine, tokenizer=tokenizer, sampling=defaults.sampling)
