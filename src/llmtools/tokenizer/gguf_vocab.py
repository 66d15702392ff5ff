"""The tokenizer inside a GGUF file, rebuilt so that every id is the file's own.

A file that carries a whole tokenizer.json (`tokenizer.huggingface.json`, as ours do) is read from
that; else the vocabulary, merges and the name of the split rule are put together again.
Source: docs/gguf.md of ggml for the keys; llama.cpp's src/llama-vocab.cpp for what each
`tokenizer.ggml.pre` stands for and adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, processors

from llmtools.errors import InputError
from llmtools.tokenizer import split

JSON_KEY = "tokenizer.huggingface.json"
# `tokenizer.ggml.pre` -> our rule.
RULES = {
    "gpt-2": "gpt2",
    "gpt2": "gpt2",
    "smollm": "smollm",
    "starcoder": "smollm",
    "refact": "smollm",
    "command-r": "smollm",
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "llama-v3": "llama3",
    "qwen2": "qwen2",
}
# Values of `tokenizer.ggml.token_type`.
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5


def tokenizer_json(metadata: Mapping[str, Any], where: str) -> str:
    """The text of a tokenizer.json for a GGUF's metadata.

    raises: InputError for an absent or inconsistent vocabulary, or one of a kind that is not read.
    """
    whole = metadata.get(JSON_KEY)
    if isinstance(whole, str):
        return whole
    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind is None:
        raise InputError(f"{where}: no tokenizer in this GGUF file (no tokenizer.ggml.model)")
    if kind != "gpt2":
        raise InputError(
            f"{where}: tokenizer.ggml.model is {kind!r}; of GGUF vocabularies only byte-level BPE"
            " ('gpt2') is read: use the model's tokenizer.json instead"
        )
    if pre not in RULES:
        raise InputError(
            f"{where}: tokenizer.ggml.pre is {pre!r}; known split rules are {', '.join(RULES)}:"
            " use the model's tokenizer.json instead"
        )
    text: str = _rebuild(metadata, RULES[pre], where).to_str()
    return text


def _rebuild(metadata: Mapping[str, Any], rule: str, where: str) -> tokenizers.Tokenizer:
    tokens = _strings(metadata, "tokenizer.ggml.tokens", where)
    merges = _merges(metadata, where)
    types = _types(metadata, len(tokens), where)
    if len(set(tokens)) != len(tokens):
        raise InputError(f"{where}: tokenizer.ggml.tokens holds a token twice")
    # Unused entries pad the vocabulary at its end. The added tokens before them get the ids after
    # the model's own, as in most tokenizer.json files; added tokens elsewhere are in the model.
    base = end = max((at for at, kind in enumerate(types) if kind != UNUSED), default=-1) + 1
    while base and types[base - 1] in (CONTROL, USER_DEFINED):
        base -= 1
    is_llama3 = rule == "llama3"
    try:
        built = tokenizers.Tokenizer(
            models.BPE(
                vocab={token: at for at, token in enumerate(tokens[:base])},
                merges=merges,
                ignore_merges=is_llama3,
            )
        )
    except Exception as fault:
        raise InputError(f"{where}: vocabulary and merges do not agree: {fault}") from fault
    built.normalizer = split.normalizer(rule)
    built.pre_tokenizer = split.pre_tokenizer(rule)
    built.decoder = decoders.ByteLevel()
    for at in range(end):
        if types[at] in (CONTROL, USER_DEFINED):
            is_control = types[at] == CONTROL
            added = AddedToken(tokens[at], normalized=False, special=is_control)
            (built.add_special_tokens if is_control else built.add_tokens)([added])
    for at in range(end):
        if built.token_to_id(tokens[at]) != at:
            raise InputError(
                f"{where}: token {at} ({tokens[at]!r}) would get id"
                f" {built.token_to_id(tokens[at])}; use the model's tokenizer.json instead"
            )
    if metadata.get("tokenizer.ggml.add_bos_token", is_llama3):
        _prepend(built, token_of(metadata, "bos", where))
    return built


def _prepend(built: tokenizers.Tokenizer, bos: str | None) -> None:
    if bos is not None:
        built.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"],
            pair=[bos, "$A", bos, "$B"],
            special_tokens=[(bos, built.token_to_id(bos))],
        )


def token_of(metadata: Mapping[str, Any], role: str, where: str) -> str | None:
    """The token that has a role (bos, eos, eot, padding, unknown), None where none is named.

    raises: InputError for an id outside the vocabulary.
    """
    id = metadata.get(f"tokenizer.ggml.{role}_token_id")
    if id is None:
        return None
    tokens = _strings(metadata, "tokenizer.ggml.tokens", where)
    if not isinstance(id, int) or not 0 <= id < len(tokens):
        raise InputError(f"{where}: the {role} token's id is {id!r} of {len(tokens)} tokens")
    return tokens[id]


def _strings(metadata: Mapping[str, Any], key: str, where: str) -> list[str]:
    value = metadata.get(key)
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        raise InputError(f"{where}: {key} is absent or not a list of strings")
    return value


def _types(metadata: Mapping[str, Any], count: int, where: str) -> list[int]:
    types = np.asarray(metadata.get("tokenizer.ggml.token_type", [1] * count))
    if types.shape != (count,) or types.dtype.kind not in "iu":
        raise InputError(f"{where}: tokenizer.ggml.token_type is not one integer for each token")
    numbers: list[int] = types.tolist()
    return numbers


def _merges(metadata: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(_strings(metadata, "tokenizer.ggml.merges", where)):
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise InputError(f"{where}: merge {number} is {line!r}, not two pieces")
        merges.append((left, right))
    return merges
