"""GPT-2's own layout: the vocabulary in one file, the merges in another, GPT-2's split rule."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models

from llmtools.errors import InputError
from llmtools.tokenizer import split
from llmtools.tokenizer.tokenizer import EOS_NAMES

_PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


def find(directory: Path) -> tuple[Path, Path] | None:
    """The two files of a directory, None where it has no such pair."""
    for vocab, merges in _PAIRS:
        if (directory / vocab).is_file() and (directory / merges).is_file():
            return directory / vocab, directory / merges
    return None


def tokenizer_json(vocab_text: str, merges_text: str, where: Path) -> str:
    """The text of a tokenizer.json.

    raises: InputError for ids that repeat or leave holes, and merges that name no token.
    """
    try:
        vocab = json.loads(vocab_text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as fault:
        raise InputError(f"{where}: not a vocabulary: {fault}") from fault
    if not isinstance(vocab, dict) or not all(type(id) is int for id in vocab.values()):
        raise InputError(f"{where}: not an object of tokens and their ids")
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise InputError(f"{where}: ids repeat or have holes; {len(vocab)} tokens need 0 and on")
    lines = [line for line in merges_text.split("\n") if line and not line.startswith("#version")]
    merges = []
    for number, line in enumerate(lines, 1):
        left, _, right = line.rstrip("\r").partition(" ")
        if not {left, right, left + right} <= vocab.keys():
            raise InputError(f"{where}: merge {number} is {line!r}, whose pieces are no tokens")
        merges.append((left, right))
    built = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    built.pre_tokenizer = split.pre_tokenizer("gpt2")
    built.decoder = decoders.ByteLevel()
    special = [token for token in EOS_NAMES if token in vocab]
    built.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    text: str = built.to_str()
    return text


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a token is there twice")
    return found
