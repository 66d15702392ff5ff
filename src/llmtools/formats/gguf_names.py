"""How a Llama-shaped model is called in a GGUF file and in a Hugging Face directory.

Names and keys are those of llama.cpp's convert_hf_to_gguf.py. llama.cpp rotates neighbouring
values of a head (2i, 2i + 1); Hugging Face rotates the two halves of a head (i, i + d/2). So the
rows of the query and key projections are stored in another order in a GGUF file: `permute_qk`
makes it, `unpermute_qk` undoes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from reprlib import repr
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmtools.errors import InputError

ARCHITECTURE = "llama"

_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER_BACK = {hf: own for own, hf in _OUTER.items()}
_BLOCK_BACK = {hf: own for own, hf in _BLOCK.items()}
_GGUF_NAME = re.compile(r"(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)")
_HF_NAME = re.compile(r"(?:model\.layers\.(\d+)\.)?([a-z_.]+)\.(weight|bias)")

# GGUF key (after "llama.") -> config.json key.
_INTEGER_KEYS = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "rope.dimension_count": "head_dim",
}
_FLOAT_KEYS = {
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
_EOS_KEY = "tokenizer.ggml.eos_token_id"
_EOT_KEY = "tokenizer.ggml.eot_token_id"
_TOKEN_KEYS = {
    "tokenizer.ggml.bos_token_id": "bos_token_id",
    _EOS_KEY: "eos_token_id",
    "tokenizer.ggml.padding_token_id": "pad_token_id",
}
# What llama.cpp assumes where the key is absent.
DEFAULT_ROPE_THETA = 10000.0


def hf_name(gguf_name: str) -> str:
    """'blk.3.attn_q.weight' -> 'model.layers.3.self_attn.q_proj.weight'; InputError if unknown."""
    match = _GGUF_NAME.fullmatch(gguf_name)
    if match:
        layer, part, kind = match.groups()
        found = (_OUTER if layer is None else _BLOCK).get(part)
        if found is not None:
            prefix = "" if layer is None else f"model.layers.{layer}."
            return f"{prefix}{found}.{kind}"
    raise InputError(f"tensor {gguf_name!r} has no place in a Llama model")


def gguf_name(hf_name: str) -> str:
    """The inverse of `hf_name`; InputError for a weight that a Llama model does not have."""
    match = _HF_NAME.fullmatch(hf_name)
    if match:
        layer, part, kind = match.groups()
        found = (_OUTER_BACK if layer is None else _BLOCK_BACK).get(part)
        if found is not None:
            prefix = "" if layer is None else f"blk.{layer}."
            return f"{prefix}{found}.{kind}"
    raise InputError(f"weight {hf_name!r} has no name in a Llama GGUF file")


def is_query(gguf_name: str) -> bool:
    """Whether a tensor's rows are query heads, stored permuted."""
    return ".attn_q." in gguf_name


def is_key(gguf_name: str) -> bool:
    """Whether a tensor's rows are key heads, stored permuted."""
    return ".attn_k." in gguf_name


def permute_qk(array: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """Rows of a query or key weight (or bias) from halves to neighbours, per head.

    array: (num_heads * head_dim, ...); num_heads is the key-value heads for a key.
    """
    halves = array.reshape(num_heads, 2, -1, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def unpermute_qk(array: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """The inverse of `permute_qk`: rows from neighbours to halves, per head."""
    pairs = array.reshape(num_heads, -1, 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)


def gguf_metadata_from_hf_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `llama.*` and architecture keys of a GGUF file for a Llama config.json.

    raises: InputError for another model type, scaled rotary embeddings or a missing key.
    """
    if config.get("model_type") != ARCHITECTURE:
        raise InputError(
            f"model_type {config.get('model_type')!r} cannot be written as GGUF (only 'llama' can)"
        )
    known = dict(config)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type != "default":
        raise InputError(f"rope_type {rope_type!r} cannot be written as GGUF (only 'default' can)")
    theta = rope.get("rope_theta", config.get("rope_theta"))
    known["rope_theta"] = DEFAULT_ROPE_THETA if theta is None else theta
    known.setdefault("rms_norm_eps", 1e-6)
    known.setdefault("max_position_embeddings", 2048)
    missing = [
        key
        for key in (*_INTEGER_KEYS.values(), *_FLOAT_KEYS.values())
        if known.get(key) is None and key not in ("num_key_value_heads", "head_dim")
    ]
    if missing:
        raise InputError(f"config.json has no {', '.join(missing)}")
    if known.get("num_key_value_heads") is None:
        known["num_key_value_heads"] = known["num_attention_heads"]
    if known.get("head_dim") is None:
        known["head_dim"] = known["hidden_size"] // known["num_attention_heads"]
    metadata: dict[str, Any] = {"general.architecture": ARCHITECTURE}
    for own, hf in _INTEGER_KEYS.items():
        metadata[f"{ARCHITECTURE}.{own}"] = int(known[hf])
    for own, hf in _FLOAT_KEYS.items():
        metadata[f"{ARCHITECTURE}.{own}"] = float(known[hf])
    if known["head_dim"] * known["num_attention_heads"] != known["hidden_size"]:
        # llama.cpp takes hidden_size / heads for a head's width unless these say otherwise.
        metadata[f"{ARCHITECTURE}.attention.key_length"] = int(known["head_dim"])
        metadata[f"{ARCHITECTURE}.attention.value_length"] = int(known["head_dim"])
    return metadata


def hf_config_from_gguf(metadata: Mapping[str, Any], tensor_names: Iterable[str]) -> dict[str, Any]:
    """The config.json (LlamaConfig) of a GGUF file.

    Tied embeddings and biases are told by which tensors exist. Floats, which GGUF keeps in 32 bits,
    are given back as the shortest decimal (1e-05, not 9.999999747378752e-06).
    raises: InputError for another architecture, scaled rotary embeddings, experts or a missing key.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture != ARCHITECTURE:
        raise InputError(f"architecture {architecture!r} is not supported (only 'llama' is)")
    own = {k.removeprefix("llama."): v for k, v in metadata.items() if k.startswith("llama.")}
    if "expert_count" in own and _checked(own, "expert_count", int):
        raise InputError(f"mixture of {own['expert_count']} experts is not supported")
    scaling = own.get("rope.scaling.type", "none")
    if not isinstance(scaling, str) or scaling != "none":
        raise InputError(f"llama.rope.scaling.type {scaling!r} is not supported (only 'none' is)")
    names = set(tensor_names)
    if "rope_freqs.weight" in names:
        raise InputError("scaled rotary embeddings (tensor 'rope_freqs.weight') are not supported")
    if "vocab_size" not in own and isinstance(metadata.get("tokenizer.ggml.tokens"), list):
        own["vocab_size"] = len(metadata["tokenizer.ggml.tokens"])
    own.setdefault("attention.head_count_kv", own.get("attention.head_count"))
    own.setdefault("rope.freq_base", DEFAULT_ROPE_THETA)
    width = own.get("attention.key_length", own.get("rope.dimension_count"))
    if width is not None:
        own["rope.dimension_count"] = width
    config: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": ARCHITECTURE}
    for key, hf in _INTEGER_KEYS.items():
        if key in own or key != "rope.dimension_count":
            config[hf] = _checked(own, key, int)
    for key, hf in _FLOAT_KEYS.items():
        config[hf] = float(str(np.float32(_checked(own, key, float))))
    config.setdefault("head_dim", config["hidden_size"] // max(config["num_attention_heads"], 1))
    config |= {
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_gate.bias" in names,
    }
    ids = {key: _token_id(metadata, key) for key in (*_TOKEN_KEYS, _EOT_KEY) if key in metadata}
    config |= {hf: ids[key] for key, hf in _TOKEN_KEYS.items() if key in ids}
    # A model may stop at two tokens: the end of a text and the end of a chat turn.
    stops = {ids[key] for key in (_EOS_KEY, _EOT_KEY) if key in ids}
    if len(stops) > 1:
        config["eos_token_id"] = sorted(stops)
    return config


def _checked(own: Mapping[str, Any], key: str, kind: type[int] | type[float]) -> Any:
    value = own.get(key)
    if value is None:
        raise InputError(f"no metadata key 'llama.{key}'")
    if isinstance(value, bool) or not isinstance(value, kind):
        raise InputError(f"metadata key 'llama.{key}' is {repr(value)}, not a {kind.__name__}")
    return value


def _token_id(metadata: Mapping[str, Any], key: str) -> int:
    value = metadata[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"metadata key {key!r} is {repr(value)}, not a token id")
    return value
