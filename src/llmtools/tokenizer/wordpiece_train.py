"""Learning a WordPiece vocabulary as the `tokenizers` library does.

Pairs are merged by frequency; what begins no word begins with ##. That library numbers the
characters within words in an order that differs from run to run; here they come in code point
order, after the plain characters. Source: tokenizers 0.23, models/wordpiece/trainer.rs, and the
limit on characters of its BertWordPieceTokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from llmtools.errors import UsageError
from llmtools.tokenizer.bpe_train import Symbols, learn_merges
from llmtools.tokenizer.word_count import WordTable

PREFIX = "##"
MAX_CHARACTERS = 1000
NOT_KEPT = -1


def learn_wordpieces(
    table: WordTable,
    special_tokens: Sequence[str],
    vocab_size: int,
    *,
    min_frequency: int = 0,
    max_characters: int = MAX_CHARACTERS,
    on_tokens: Callable[[int], None] = lambda num: None,
) -> list[str]:
    """The vocabulary by id: special tokens, characters, characters within words, merges.

    max_characters: only so many of the most frequent are kept, those with lower code points among
    equals; words are learned from without the others. raises: UsageError where the characters
    alone take more than `vocab_size`.
    """
    codes, starts = _code_points(table)
    lengths = np.diff(starts)
    alphabet, number = np.unique(codes, return_inverse=True)
    weights = np.repeat(table.counts, lengths).astype(np.float64)
    frequency = np.bincount(number, weights, minlength=len(alphabet))
    is_kept = np.zeros(len(alphabet), bool)
    is_kept[np.argsort(-frequency, kind="stable")[:max_characters]] = True
    is_first = np.zeros(len(codes), bool)
    is_first[starts[:-1]] = True
    ids = {token: id for id, token in enumerate(special_tokens)}
    plain = _number_of(alphabet, is_kept, "", ids)
    is_within = np.bincount(number[~is_first], minlength=len(alphabet)) > 0
    within = _number_of(alphabet, is_kept & is_within, PREFIX, ids)
    if len(ids) > vocab_size:
        raise UsageError(
            f"--vocab-size {vocab_size}: {len(special_tokens)} special tokens and the characters of"
            f" the documents, alone and within words, take {len(ids)}"
        )
    symbols = np.where(is_first, plain[number], within[number])
    ends = np.concatenate([[0], np.cumsum(symbols != NOT_KEPT)])
    kept = Symbols(symbols[symbols != NOT_KEPT], ends[starts].astype(np.int64), table.counts)
    learned = learn_merges(
        kept,
        [token.encode() for token in ids],
        vocab_size,
        min_frequency=min_frequency,
        prefix=PREFIX.encode(),
        on_tokens=on_tokens,
    )
    return [token.decode() for token in learned.tokens]


def _code_points(table: WordTable) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """All words as code points, and where each begins (with the end of the last)."""
    codes = np.frombuffer(table.words.tobytes().decode().encode("utf-32-le"), np.uint32)
    begins = np.concatenate([[0], np.cumsum(table.words & 0xC0 != 0x80)])
    return codes, begins[table.starts]


def _number_of(
    alphabet: npt.NDArray[np.uint32],
    is_wanted: npt.NDArray[np.bool_],
    prefix: str,
    ids: dict[str, int],
) -> npt.NDArray[np.int32]:
    """Number the wanted characters in `ids`; returns the id of every one, NOT_KEPT of others."""
    found = np.full(len(alphabet), NOT_KEPT, np.int32)
    for place in np.flatnonzero(is_wanted).tolist():
        found[place] = ids.setdefault(prefix + chr(alphabet[place]), len(ids))
    return found
