"""The tokenizer inside a GGUF file, rebuilt so that every id is the file's own.

A file that carries a whole tokenizer.json (`tokenizer.huggingface.json`, as ours do) is read from
that; else the vocabulary, merges and the name of the split rule are put together again.
Source: docs/gguf.md of ggml for the keys; llama.cpp's src/llama-vocab.cpp for what each
`tokenizer.ggml.pre` stands for and adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from llmtools.errors import InputError
from llmtools.formats.gguf_pre import PRE_TYPES
from llmtools.tokenizer import split, spm

JSON_KEY = "tokenizer.huggingface.json"
# What the vocabularies of `tokenizer.ggml.model` that are not read are.
UNREAD = {
    "rwkv": "RWKV's greedy words",
    "plamo2": "PLaMo-2's table",
    "hybriddna": "k-mers of DNA",
    "gemma4": "merges over whole texts",
}


def tokenizer_json(metadata: Mapping[str, Any], where: str) -> str:
    """The text of a tokenizer.json for a GGUF's metadata.

    raises: InputError for an absent or inconsistent vocabulary, or one of a kind that is not read.
    """
    whole = metadata.get(JSON_KEY)
    if isinstance(whole, str):
        return whole
    kind = metadata.get("tokenizer.ggml.model")
    build = {"gpt2": _byte_level, "llama": _spm_bpe, "t5": _unigram, "bert": _wordpiece}.get(
        str(kind)
    )
    if kind is None or kind in ("no_vocab", "none"):
        raise InputError(f"{where}: no tokenizer in this GGUF file (no tokenizer.ggml.model)")
    if build is None:
        what = UNREAD.get(str(kind), "unknown")
        raise InputError(
            f"{where}: tokenizer.ggml.model is {kind!r} ({what}); gpt2, llama, t5 and bert are"
            " read: use the model's tokenizer.json instead"
        )
    text: str = build(metadata, where).to_str()
    return text


def _byte_level(metadata: Mapping[str, Any], where: str) -> tokenizers.Tokenizer:
    pre = metadata.get("tokenizer.ggml.pre")
    if pre is None:
        raise InputError(
            f"{where}: this file does not say how text is split (no tokenizer.ggml.pre), as old"
            " files; use the model's tokenizer.json instead"
        )
    if pre not in PRE_TYPES:
        raise InputError(
            f"{where}: tokenizer.ggml.pre is {pre!r}; known split rules are"
            f" {', '.join(PRE_TYPES)}: use the model's tokenizer.json instead"
        )
    rule = PRE_TYPES[pre]
    tokens = _tokens(metadata, where)
    merges = _merges(metadata, where)
    types = _types(metadata, len(tokens), where)
    # Unused entries pad the vocabulary at its end. The added tokens before them get the ids after
    # the model's own, as in most tokenizer.json files; added tokens elsewhere are in the model.
    base = end = max((at for at, kind in enumerate(types) if kind != spm.UNUSED), default=-1) + 1
    while base and types[base - 1] in (spm.CONTROL, spm.USER_DEFINED):
        base -= 1
    try:
        built = tokenizers.Tokenizer(
            models.BPE(
                vocab={token: at for at, token in enumerate(tokens[:base])},
                merges=merges,
                ignore_merges=rule.ignores_merges,
            )
        )
    except Exception as fault:
        raise InputError(f"{where}: vocabulary and merges do not agree: {fault}") from fault
    built.normalizer = normalizers.NFC() if rule.composes else None
    built.pre_tokenizer = split.splitter(rule.steps)
    built.decoder = decoders.ByteLevel()
    _add_tokens(built, tokens[:end], types[:end], where)
    if metadata.get("tokenizer.ggml.add_bos_token", rule.adds_bos):
        _surround(built, [token_of(metadata, "bos", where)], [])
    return built


def _spm_bpe(metadata: Mapping[str, Any], where: str) -> tokenizers.Tokenizer:
    """llama.cpp's 'llama': BPE of sentencepiece, spaces as they are."""
    return _spm(metadata, "bpe", where, removes_spaces=False, adds_bos=True, adds_eos=False)


def _unigram(metadata: Mapping[str, Any], where: str) -> tokenizers.Tokenizer:
    return _spm(metadata, "unigram", where, removes_spaces=True, adds_bos=False, adds_eos=True)


def _spm(
    metadata: Mapping[str, Any],
    kind: Literal["bpe", "unigram"],
    where: str,
    *,
    removes_spaces: bool,
    adds_bos: bool,
    adds_eos: bool,
) -> tokenizers.Tokenizer:
    pieces = _tokens(metadata, where)
    scores = np.asarray(metadata.get("tokenizer.ggml.scores", ()))
    if scores.shape != (len(pieces),) or scores.dtype.kind not in "fiu":
        raise InputError(f"{where}: tokenizer.ggml.scores is not one number for each token")
    charsmap = metadata.get("tokenizer.ggml.precompiled_charsmap", ())
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0 if kind == "bpe" else 2)
    if not isinstance(unknown, int):
        raise InputError(f"{where}: the unknown token's id is {unknown!r}")
    built = spm.build(
        spm.SpmVocabulary(
            kind=kind,
            pieces=pieces,
            scores=scores.tolist(),
            types=_types(metadata, len(pieces), where),
            unk_id=unknown,
            charsmap=np.asarray(charsmap, np.int64).astype(np.uint8).tobytes(),
            adds_prefix=bool(metadata.get("tokenizer.ggml.add_space_prefix", True)),
            removes_spaces=bool(
                metadata.get("tokenizer.ggml.remove_extra_whitespaces", removes_spaces)
            ),
        ),
        where,
    )
    bos = eos = None
    if metadata.get("tokenizer.ggml.add_bos_token", adds_bos):
        bos = token_of(metadata, "bos", where)
    if metadata.get("tokenizer.ggml.add_eos_token", adds_eos):
        eos = token_of(metadata, "eos", where)
    _surround(built, [bos], [eos])
    return built


def _wordpiece(metadata: Mapping[str, Any], where: str) -> tokenizers.Tokenizer:
    """llama.cpp's 'bert': tokens that begin a word are marked there, others in a tokenizer.json."""
    tokens = _tokens(metadata, where)
    types = _types(metadata, len(tokens), where)
    kinds = (spm.CONTROL, spm.UNKNOWN, spm.USER_DEFINED, spm.UNUSED)
    names = [
        token if kind in kinds else token[1:] if token.startswith(spm.SPACE) else "##" + token
        for token, kind in zip(tokens, types, strict=True)
    ]
    if len(set(names)) != len(names):
        raise InputError(f"{where}: tokenizer.ggml.tokens holds a token twice")
    unknown = token_of(metadata, "unknown", where)
    if unknown is None:
        raise InputError(f"{where}: no tokenizer.ggml.unknown_token_id")
    built = tokenizers.Tokenizer(
        models.WordPiece({name: id for id, name in enumerate(names)}, unk_token=unknown)
    )
    lowercase = bool(metadata.get("tokenizer.ggml.normalizer.lowercase", True))
    built.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    built.decoder = decoders.WordPiece()
    _add_tokens(built, names, types, where)
    # The key is misspelt in the format itself.
    ends = [token_of(metadata, role, where) for role in ("cls", "seperator")]
    if metadata.get("tokenizer.ggml.add_bos_token", True):
        _surround(built, ends[:1], ends[1:])
    return built


def _add_tokens(
    built: tokenizers.Tokenizer, tokens: Sequence[str], types: Sequence[int], where: str
) -> None:
    """Make control and user-defined tokens added ones; raises InputError where an id would move."""
    for token, kind in zip(tokens, types, strict=True):
        if kind in (spm.CONTROL, spm.USER_DEFINED):
            is_control = kind == spm.CONTROL
            added = AddedToken(token, normalized=False, special=is_control)
            (built.add_special_tokens if is_control else built.add_tokens)([added])
    for at, token in enumerate(tokens):
        if built.token_to_id(token) != at:
            raise InputError(
                f"{where}: token {at} ({token!r}) would get id {built.token_to_id(token)};"
                " use the model's tokenizer.json instead"
            )


def _surround(
    built: tokenizers.Tokenizer, before: Sequence[str | None], after: Sequence[str | None]
) -> None:
    """Put tokens around every text; None stands for none."""
    first = [token for token in before if token is not None]
    last = [token for token in after if token is not None]
    if first or last:
        built.post_processor = processors.TemplateProcessing(
            single=[*first, "$A", *last],
            pair=[*first, "$A", *last, *first, "$B", *last],
            special_tokens=[(token, built.token_to_id(token)) for token in {*first, *last}],
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


def _tokens(metadata: Mapping[str, Any], where: str) -> list[str]:
    tokens = _strings(metadata, "tokenizer.ggml.tokens", where)
    if len(set(tokens)) != len(tokens):
        raise InputError(f"{where}: tokenizer.ggml.tokens holds a token twice")
    return tokens


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
