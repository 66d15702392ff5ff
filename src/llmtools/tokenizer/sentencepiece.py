"""A model file of sentencepiece as the text of a tokenizer.json."""

from __future__ import annotations

from llmtools.errors import InputError
from llmtools.formats.sentencepiece import SentencePieceFile
from llmtools.tokenizer import spm


def tokenizer_json(found: SentencePieceFile, where: str) -> str:
    """raises: InputError for a kind of model that is not read, or an inconsistent one.

    A text that begins with a user-defined symbol differs: sentencepiece puts a space before it.
    """
    if found.kind not in ("bpe", "unigram"):
        raise InputError(
            f"{where}: a {found.kind!r} model of sentencepiece; bpe and unigram are read"
        )
    if found.whitespace_is_suffix:
        raise InputError(f"{where}: spaces as suffixes (treat_whitespace_as_suffix) are not read")
    if not found.escape_whitespaces:
        raise InputError(f"{where}: unescaped spaces (escape_whitespaces off) are not read")
    built = spm.build(
        spm.SpmVocabulary(
            kind="bpe" if found.kind == "bpe" else "unigram",
            pieces=found.pieces,
            scores=found.scores,
            types=found.types,
            unk_id=found.unk_id,
            charsmap=found.charsmap,
            adds_prefix=found.add_dummy_prefix,
            removes_spaces=found.remove_extra_whitespaces,
        ),
        where,
    )
    text: str = built.to_str()
    return text


def ends(found: SentencePieceFile) -> tuple[str | None, str | None]:
    """The tokens that begin and end a text, None where the model has none."""
    num = len(found.pieces)
    bos, eos = (found.pieces[id] if 0 <= id < num else None for id in (found.bos_id, found.eos_id))
    return bos, eos
