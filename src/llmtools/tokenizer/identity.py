"""A name for a tokenizer's behaviour, the same wherever it is stored.

Hashed: kind of model, vocabulary with ids, merges or scores, normalizer, split rules, special
tokens. Left out: what does not change the ids of a text (decoder, offsets, truncation, padding, the
template that adds BOS, chat templates, file layout).
"""

from __future__ import annotations

import json
from typing import Any

import xxhash

# Settings that change ids, with the value that stands for their absence.
_MODEL_SETTINGS: dict[str, Any] = {
    "unk_token": None,
    "unk_id": None,
    "byte_fallback": False,
    "ignore_merges": False,
    "fuse_unk": False,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "max_input_chars_per_word": None,
}
# Settings of split rules that change offsets only.
_OFFSET_SETTINGS = ("trim_offsets",)


def tokenizer_identity(fields: dict[str, Any]) -> str:
    """xxh3-128 (hex) of the canonical content of a parsed tokenizer.json."""
    model = fields["model"]
    vocabulary, scores = _vocabulary(model["vocab"])
    for token in fields.get("added_tokens", []):
        vocabulary[token["content"]] = token["id"]
    content = {
        "kind": model["type"],
        "vocabulary": sorted(vocabulary.items(), key=lambda item: (item[1], item[0])),
        "scores": scores,
        "merges": [_merge(pair) for pair in model.get("merges", [])],
        "settings": {
            key: model.get(key) or absent for key, absent in sorted(_MODEL_SETTINGS.items())
        },
        "normalizer": _steps(fields.get("normalizer"), "normalizers"),
        "split": _steps(fields.get("pre_tokenizer"), "pretokenizers"),
        "special": sorted(
            (token["id"], token["content"], token["special"])
            for token in fields.get("added_tokens", [])
        ),
    }
    text = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(text.encode())


def _vocabulary(vocab: Any) -> tuple[dict[str, int], list[float]]:
    """Token -> id, and the scores of a unigram model."""
    if isinstance(vocab, dict):
        return dict(vocab), []
    return {piece: at for at, (piece, _) in enumerate(vocab)}, [score for _, score in vocab]


def _merge(pair: Any) -> list[str]:
    """A merge in either spelling: "a b" or ["a", "b"]."""
    return pair.split(" ", 1) if isinstance(pair, str) else list(pair)


def _steps(step: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """A normalizer or splitter as the flat list of its steps."""
    if step is None:
        return []
    if step.get("type") == "Sequence":
        return [inner for child in step[key] for inner in _steps(child, key)]
    return [{k: v for k, v in step.items() if k not in _OFFSET_SETTINGS}]
