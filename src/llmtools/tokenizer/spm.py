"""Vocabularies of sentencepiece, from any file, as a pipeline of the `tokenizers` library.

BPE pieces carry scores instead of merges: of all neighbours that make a piece, the one with the
highest score is merged first. So every way to cut a piece into two pieces is a merge, in the order
of scores, as transformers converts such files. One case is left to chance by that: where a piece
can be made of two pairs that overlap in a text, sentencepiece takes the left one.
Source: sentencepiece, src/sentencepiece_model.proto, src/bpe_model.cc and src/unigram_model.cc;
transformers, convert_slow_tokenizer.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from llmtools.errors import InputError

# What a piece is; GGUF files number them alike.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpmVocabulary:
    """pieces, scores, types: by id. unk_id: of UNKNOWN, None where there is none.

    charsmap: sentencepiece's compiled normalization, b'' for none. adds_prefix: a space is put
    before the text. removes_spaces: spaces at both ends go, and repeated ones inside.
    """

    kind: Literal["bpe", "unigram"]
    pieces: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]
    unk_id: int | None
    charsmap: bytes = b""
    adds_prefix: bool = True
    removes_spaces: bool = False


def build(vocabulary: SpmVocabulary, where: str) -> tokenizers.Tokenizer:
    """The tokenizer; raises InputError naming `where` for a vocabulary that cannot be one."""
    _check(vocabulary, where)
    try:
        made = tokenizers.Tokenizer(
            _bpe(vocabulary) if vocabulary.kind == "bpe" else _unigram(vocabulary)
        )
        made.normalizer = _normalizer(vocabulary)
    except Exception as fault:
        raise InputError(f"{where}: not a vocabulary of sentencepiece: {fault}") from fault
    spans_words = any(
        SPACE in piece[1:] and piece.strip(SPACE)
        for piece, kind in zip(vocabulary.pieces, vocabulary.types, strict=True)
        if kind == NORMAL
    )
    if vocabulary.kind == "unigram" and not spans_words and vocabulary.removes_spaces:
        # Words are looked at one by one; the best pieces of a text are those of its words.
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    steps: list[decoders.Decoder] = [decoders.Replace(SPACE, " ")]
    steps += [decoders.ByteFallback(), decoders.Fuse()]
    if vocabulary.adds_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    made.decoder = decoders.Sequence(steps)
    for id, (piece, kind) in enumerate(zip(vocabulary.pieces, vocabulary.types, strict=True)):
        if kind in (CONTROL, UNKNOWN):
            made.add_special_tokens([AddedToken(piece, normalized=False, special=True)])
        elif kind == USER_DEFINED:
            made.add_tokens([AddedToken(piece, normalized=False, special=False)])
        else:
            continue
        if made.token_to_id(piece) != id:
            raise InputError(f"{where}: piece {id} ({piece!r}) would get another id")
    return made


def _check(vocabulary: SpmVocabulary, where: str) -> None:
    num = len(vocabulary.pieces)
    if not num or not num == len(vocabulary.scores) == len(vocabulary.types):
        raise InputError(f"{where}: pieces, scores and types are not of one length")
    if not all(vocabulary.pieces):
        raise InputError(f"{where}: piece {list(vocabulary.pieces).index('')} is empty")
    if len(set(vocabulary.pieces)) != num:
        raise InputError(f"{where}: a piece is there twice")
    if not set(vocabulary.types) <= set(range(7)):
        raise InputError(f"{where}: piece types go from 1 to 6")
    if any(score != score for score in vocabulary.scores):
        raise InputError(f"{where}: a score is not a number")
    if vocabulary.unk_id is not None and not 0 <= vocabulary.unk_id < num:
        raise InputError(f"{where}: the unknown piece's id is {vocabulary.unk_id} of {num}")


def _has_bytes(vocabulary: SpmVocabulary) -> bool:
    return BYTE in vocabulary.types


def _bpe(vocabulary: SpmVocabulary) -> models.Model:
    ids = {piece: id for id, piece in enumerate(vocabulary.pieces)}
    found: list[tuple[float, int, int, str, str]] = []
    for id, piece in enumerate(vocabulary.pieces):
        if vocabulary.types[id] != NORMAL:
            continue
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        known = [(left, right) for left, right in cuts if left in ids and right in ids]
        known.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        score = vocabulary.scores[id]
        found += [(score, len(left), len(right), left, right) for left, right in known]
    found.sort(key=lambda merge: merge[:3], reverse=True)
    return models.BPE(
        vocab=ids,
        merges=[(left, right) for _, _, _, left, right in found],
        unk_token=None if vocabulary.unk_id is None else vocabulary.pieces[vocabulary.unk_id],
        fuse_unk=True,
        byte_fallback=_has_bytes(vocabulary),
    )


def _unigram(vocabulary: SpmVocabulary) -> models.Model:
    pairs = zip(vocabulary.pieces, vocabulary.scores, strict=True)
    return models.Unigram(
        [(piece, float(score)) for piece, score in pairs],
        unk_id=vocabulary.unk_id,
        byte_fallback=_has_bytes(vocabulary),
    )


def _normalizer(vocabulary: SpmVocabulary) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if vocabulary.charsmap:
        steps.append(normalizers.Precompiled(vocabulary.charsmap))
    if vocabulary.removes_spaces:
        steps += [
            normalizers.Replace(Regex(r"\A +| +\z"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    if vocabulary.adds_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps)
