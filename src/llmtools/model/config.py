"""The shape of a decoder, read from a Hugging Face config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmtools.errors import InputError, did_you_mean
from llmtools.model.families import FAMILIES, Family


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A decoder's shape; names and defaults are Hugging Face's (LlamaConfig)."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The end-of-sequence ids as a tuple, empty when the config names none."""
        if self.eos_token_id is None:
            return ()
        return (
            (self.eos_token_id,) if isinstance(self.eos_token_id, int) else tuple(self.eos_token_id)
        )

    def to_hf(self) -> dict[str, Any]:
        """The config.json that transformers reads."""
        values = asdict(self)
        return {
            "architectures": [self.family.architecture],
            **values,
            # transformers >= 5 reads rope_parameters, earlier versions and llama.cpp rope_theta.
            "rope_parameters": {"rope_theta": self.rope_theta, "rope_type": "default"},
            "hidden_act": "silu",
        }


_INTEGERS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


# Beyond any model; a number above these is a damaged file, and would be built layer by layer.
MAX_LAYERS = 10_000
MAX_SIZE = 2**31 - 1
_FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias")
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def load_config(path: Path) -> ModelConfig:
    """Read a config.json; raises InputError naming the file and every key that is wrong."""
    try:
        values = json.loads(path.read_bytes())
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror}") from fault
    except (ValueError, RecursionError) as fault:
        raise InputError(f"{path}: not JSON: {fault}") from fault
    if not isinstance(values, dict):
        raise InputError(f"{path}: a model config is a JSON object")
    return config_from_hf(values, str(path))


def config_from_hf(values: Mapping[str, Any], where: str) -> ModelConfig:
    """A ModelConfig from a Hugging Face config; all mistakes are reported in one InputError."""
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        near = did_you_mean(str(model_type), FAMILIES)
        raise InputError(f"{where}: model_type {model_type!r} is not supported ({known}){near}")
    family = FAMILIES[model_type]
    fields = set(ModelConfig.__dataclass_fields__)
    mistakes = [
        f"unknown key {key!r}{did_you_mean(key, fields | family.fixed.keys() | family.ignored)}"
        for key in values
        if key not in fields | family.fixed.keys() | family.ignored
    ]
    mistakes += [
        f"{key} is {values[key]!r}; this version supports {allowed[0]!r}"
        for key, allowed in family.fixed.items()
        if key in values and values[key] not in allowed
    ]
    taken = {k: v for k, v in values.items() if k in fields}
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        mistakes.append(f"rope_parameters is {rope!r}, not an object")
    elif rope.get("rope_type", rope.get("type", "default")) != "default":
        mistakes.append(f"rope_type {rope.get('rope_type', rope.get('type'))!r} is not supported")
    elif "rope_theta" in rope:
        taken["rope_theta"] = rope["rope_theta"]
    required = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    mistakes += [
        f"missing key {key!r}" for key in (*required, "num_attention_heads") if key not in values
    ]
    if not mistakes:
        heads = taken["num_attention_heads"]
        if taken.get("num_key_value_heads") is None:
            taken["num_key_value_heads"] = heads
        if (
            taken.get("head_dim") is None
            and _is_positive(heads)
            and _is_positive(taken["hidden_size"])
        ):
            taken["head_dim"] = taken["hidden_size"] // heads
        mistakes = _shape_mistakes(taken)
    if mistakes:
        raise InputError(f"{where}: " + "; ".join(mistakes))
    return ModelConfig(**taken)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_positive_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < 1e38


def _is_id(value: Any, *, is_list_allowed: bool) -> bool:
    if isinstance(value, list) and is_list_allowed:
        return all(_is_id(one, is_list_allowed=False) and one is not None for one in value)
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _shape_mistakes(taken: Mapping[str, Any]) -> list[str]:
    mistakes = [
        f"{key} is {taken[key]!r}, not a positive integer"
        for key in _INTEGERS
        if key in taken and not _is_positive(taken[key])
    ]
    mistakes += [
        f"{key} is {taken[key]!r}, not a positive number"
        for key in ("rms_norm_eps", "rope_theta", "initializer_range")
        if key in taken and not _is_positive_number(taken[key])
    ]
    mistakes += [
        f"{key} is {taken[key]!r}, not true or false"
        for key in _FLAGS
        if not isinstance(taken.get(key, False), bool)
    ]
    mistakes += [
        f"{key} is {taken[key]!r}, not a token id"
        for key in _IDS
        if not _is_id(taken.get(key), is_list_allowed=key == "eos_token_id")
    ]
    if mistakes:
        return mistakes
    mistakes += [
        f"{key} is {taken[key]}, above {limit}"
        for key in _INTEGERS
        if key in taken
        and taken[key] > (limit := MAX_LAYERS if key == "num_hidden_layers" else MAX_SIZE)
    ]
    heads, kv_heads = taken["num_attention_heads"], taken["num_key_value_heads"]
    if heads % kv_heads:
        mistakes.append(f"num_attention_heads {heads} is not a multiple of {kv_heads} kv heads")
    if taken["head_dim"] % 2:
        mistakes.append(f"head_dim {taken['head_dim']} is odd; rotary embedding needs pairs")
    return mistakes
