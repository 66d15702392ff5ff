"""Where a long text can be cut so that its pieces encode to what the whole encodes to.

The library holds about 140 bytes for each token of what it encodes at once, so a document of 100 MB
would take more than ten gigabytes. Between an ASCII letter and a space before another letter every
split rule of split.py ends a word, and nothing before such a place changes what follows. Under
other rules, as those that mark the start of a text, nothing is cut.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmtools.tokenizer.split import PATTERNS

# Texts up to here are encoded at once; pieces are about as long.
PIECE_CHARS = 1 << 20
_CUT = re.compile(r"[A-Za-z](?= [A-Za-z])")


def can_be_cut(values: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json's rules allow it."""
    normalizer = values.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        return False
    return _ends_words(values.get("pre_tokenizer")) and all(
        " " not in token["content"] and not (token["rstrip"] and token["content"][-1:].isalpha())
        for token in values.get("added_tokens", [])
    )


def _ends_words(rule: Any) -> bool:
    """Whether a rule ends a word at the places of _CUT; of a sequence, one that does is enough."""
    if not isinstance(rule, dict):
        return False
    if rule.get("type") == "Sequence":
        rules = rule["pretokenizers"]
        return any(map(_ends_words, rules)) and all(map(_is_local, rules))
    if rule.get("type") == "Split":
        return _is_local(rule)
    return _is_local(rule) and rule.get("type") == "ByteLevel" and rule.get("use_regex", True)


def _is_local(rule: Mapping[str, Any]) -> bool:
    """Whether a rule does nothing special at the start of a text, and never looks back."""
    if rule.get("type") == "Split":
        pattern = rule["pattern"].get("Regex")
        is_kept = rule["behavior"] == "Isolated" and not rule["invert"]
        return is_kept and pattern in PATTERNS.values()
    if rule.get("type") == "ByteLevel":
        return not rule["add_prefix_space"]
    return rule.get("type") == "Digits"


def cut(text: str, piece_chars: int = PIECE_CHARS) -> list[str]:
    """A text in pieces of about `piece_chars`; longer ones where there is no place to cut."""
    pieces, start = [], 0
    while len(text) - start > piece_chars:
        found = _CUT.search(text, start + piece_chars - 1)
        if found is None:
            break
        pieces.append(text[start : found.end()])
        start = found.end()
    return [*pieces, text[start:]]
