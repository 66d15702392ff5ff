"""A byte-level BPE tokenizer as GGUF metadata, in llama.cpp's keys.

The whole tokenizer.json travels too, under `tokenizer.huggingface.json` (a key that ggml names for
this), so that a reader that knows it loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmtools import terminal
from llmtools.errors import InputError
from llmtools.formats.chat_templates import DEFAULT, chat_templates
from llmtools.formats.checkpoint import read_json_object
from llmtools.formats.gguf_pre import DIGIT, GPT2, name_of

CHAT_TEMPLATE = "tokenizer.chat_template"

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

# llama.cpp's token types.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def vocabulary_metadata(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The `tokenizer.*` keys for the tokenizer of a model directory.

    Ids without a token, up to config.vocab_size, become unused padding tokens. A directory without
    a tokenizer.json gives a file without a vocabulary, with a warning.
    raises: InputError for a tokenizer that is not byte-level BPE, or has ids the model lacks.
    """
    path = directory / TOKENIZER
    if not path.is_file():
        terminal.warn(f"{directory} has no {TOKENIZER}; the GGUF file will have no vocabulary")
        return {"tokenizer.ggml.model": "no_vocab"}
    try:
        return _metadata(directory, path, config)
    except (AttributeError, IndexError, KeyError, TypeError) as fault:
        raise InputError(f"{path}: not a tokenizer.json of the known form ({fault!r})") from fault


def _metadata(directory: Path, path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    tokenizer = read_json_object(path)
    settings_path = directory / TOKENIZER_CONFIG
    settings = read_json_object(settings_path) if settings_path.is_file() else {}
    model = tokenizer.get("model")
    steps = _flat(tokenizer.get("pre_tokenizer"), "pretokenizers")
    if not isinstance(model, dict) or not _is_byte_level_bpe(model, steps):
        kind = model.get("type", "unknown") if isinstance(model, dict) else "unknown"
        raise InputError(f"{path}: GGUF export writes byte-level BPE only; this is {kind}")
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    tokens, types = _tokens(tokenizer, int(config["vocab_size"]), path)
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _pre_name(tokenizer, steps, path),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": merges,
    }
    ids = {token: index for index, token in enumerate(tokens)}
    special = _special_ids(settings, config, ids)
    for role, index in special.items():
        metadata[f"tokenizer.ggml.{_ROLES[role]}_token_id"] = index
    stops = config.get("eos_token_id")
    others = [i for i in stops if i != special.get("eos")] if isinstance(stops, list) else []
    if others and 0 <= others[0] < len(tokens):
        metadata["tokenizer.ggml.eot_token_id"] = others[0]
    first, last = _added_ends(tokenizer)
    bos, eos = (tokens[special[r]] if r in special else None for r in ("bos", "eos"))
    metadata["tokenizer.ggml.add_bos_token"] = bos is not None and first == bos
    metadata["tokenizer.ggml.add_eos_token"] = eos is not None and last == eos
    metadata["tokenizer.ggml.add_space_prefix"] = any(s.get("add_prefix_space") for s in steps)
    templates = chat_templates(directory, settings)
    if DEFAULT in templates:
        metadata[CHAT_TEMPLATE] = templates.pop(DEFAULT)
    if templates:
        metadata["tokenizer.chat_templates"] = list(templates)
        metadata |= {f"{CHAT_TEMPLATE}.{name}": text for name, text in templates.items()}
    metadata["tokenizer.huggingface.json"] = path.read_text("utf-8")
    return metadata


def _flat(step: Any, inner: str) -> list[dict[str, Any]]:
    """A pipeline step as a list, with sequences taken apart."""
    if not isinstance(step, dict):
        return []
    if step.get("type") == "Sequence":
        return [found for part in step.get(inner) or [] for found in _flat(part, inner)]
    return [step]


def _is_byte_level_bpe(model: Mapping[str, Any], steps: list[dict[str, Any]]) -> bool:
    return (
        model.get("type") == "BPE"
        and isinstance(model.get("vocab"), dict)
        and isinstance(model.get("merges"), list)
        and any(step.get("type") == "ByteLevel" for step in steps)
    )


def _pre_name(tokenizer: Mapping[str, Any], steps: list[dict[str, Any]], path: Path) -> str:
    """llama.cpp's name for the rules that split text before BPE."""
    kinds = [step.get("type") for step in _flat(tokenizer.get("normalizer"), "normalizers")]
    known = [_expression(step) for step in steps]
    name = None
    if all(one is not None for one in known):
        name = name_of(
            [one for one in known if one],
            ignores_merges=bool(tokenizer["model"].get("ignore_merges")),
            composes=kinds == ["NFC"],
        )
    if name is not None:
        return name
    terminal.warn(
        f"{path}: llama.cpp has no name for these split rules; it may split text differently"
        " (readers of tokenizer.huggingface.json do not)"
    )
    return "default"


def _expression(step: Mapping[str, Any]) -> str | None:
    """A step as gguf_pre.py writes it; '' where it splits nothing, None where it has no form."""
    kind = step.get("type")
    if kind == "ByteLevel":
        return GPT2 if step.get("use_regex", True) else ""
    if kind == "Digits":
        return DIGIT if step.get("individual_digits") else r"\p{N}+"
    pattern = step.get("pattern")
    if kind == "Split" and isinstance(pattern, dict) and step.get("behavior") == "Isolated":
        regex = pattern.get("Regex")
        return regex if isinstance(regex, str) else None
    return None


def _tokens(
    tokenizer: Mapping[str, Any], vocab_size: int, path: Path
) -> tuple[list[str], list[int]]:
    """Tokens and their types by id, with unused tokens where an id has none."""
    by_id = {index: (token, NORMAL) for token, index in tokenizer["model"]["vocab"].items()}
    for added in tokenizer.get("added_tokens") or []:
        by_id[added["id"]] = (added["content"], CONTROL if added.get("special") else USER_DEFINED)
    if any(type(index) is not int or index < 0 for index in by_id):
        raise InputError(f"{path}: a token id is not a whole number from 0 up")
    if max(by_id, default=-1) >= vocab_size:
        raise InputError(
            f"{path}: token id {max(by_id)} is beyond the model's vocab_size {vocab_size}"
        )
    pairs = [by_id.get(index, (f"[PAD{index}]", UNUSED)) for index in range(vocab_size)]
    return [token for token, _ in pairs], [kind for _, kind in pairs]


def _special_ids(
    settings: Mapping[str, Any], config: Mapping[str, Any], ids: Mapping[str, int]
) -> dict[str, int]:
    """Role -> id: what tokenizer_config.json names, else what config.json numbers."""
    found = {}
    for role in _ROLES:
        named = settings.get(f"{role}_token")
        if isinstance(named, dict):
            named = named.get("content")
        number = config.get(f"{role}_token_id")
        if isinstance(number, list):
            number = number[0] if number else None
        if isinstance(named, str) and named in ids:
            found[role] = ids[named]
        elif isinstance(number, int) and 0 <= number < len(ids):
            found[role] = number
    return found


def _added_ends(tokenizer: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The special tokens that the tokenizer itself puts before and after a text."""
    for step in _flat(tokenizer.get("post_processor"), "processors"):
        if step.get("type") == "TemplateProcessing" and step.get("single"):
            ends = (step["single"][0], step["single"][-1])
            first, last = (piece.get("SpecialToken", {}).get("id") for piece in ends)
            return first, last
    return None, None
