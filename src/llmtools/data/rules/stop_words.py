"""The stop words of Gopher's quality rule, counted in the words of a batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.data.rules.settings import Conventions
from llmtools.data.rules.words import words_of
from llmtools.instructions import count_ones, load_8
from llmtools.jit import inlined, kernel

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int32]

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_PACKED = [int.from_bytes(word.encode(), "little") for word in STOP_WORDS]
# A factor whose product with each of them has other highest four bits: they name its place.
_FACTOR = next(
    np.uint64(factor)
    for factor in (0x9E3779B97F4A7C15 * n % (1 << 64) for n in range(1, 1 << 16, 2))
    if len({word * factor % (1 << 64) >> 60 for word in _PACKED}) == len(_PACKED)
)
_PLACES = np.zeros(16, np.uint64)
for _word in _PACKED:
    _PLACES[_word * int(_FACTOR) % (1 << 64) >> 60] = _word
_HIGHEST = np.uint64(60)
_UPPER = np.uint64(0x2020202020202020)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_ONE, _NONE = np.uint64(1), np.uint64(0)
# Words that are looked at before it is asked whether there are enough.
_AT_ONCE = 32


def stop_words(batch: Batch, conventions: Conventions, enough: int = 0) -> Integers:
    """The stop words of every document, (D,), or those until there are `enough`, where that is set.

    datatrove counts different ones, dolma all, DCLM all in any case.
    """
    words = words_of(batch, conventions.words)
    out = np.zeros(len(batch.documents), np.int64)
    _count(
        batch.buffer,
        words.offsets,
        words.starts,
        words.num_bytes,
        conventions.dialect == "datatrove",
        conventions.dialect == "dclm",
        enough,
        out,
    )
    return out


@inlined
def _stop_word(word: np.uint64) -> int:
    """One bit, that of the stop word these bytes are, or 0."""
    place = (word * _FACTOR) >> _HIGHEST
    return int((_ONE if _PLACES[place] == word and word != _NONE else _NONE) << place)


@inlined
def _lowered(word: np.uint64, size: int) -> np.uint64:
    """A word of up to eight bytes in lower case; 0 where one of them is no ASCII letter."""
    for k in range(size):
        c = ((word >> np.uint64(8 * k)) & np.uint64(0xFF)) | np.uint64(32)
        if c < 97 or c > 122:
            return _NONE
    return np.uint64(word | (_UPPER >> np.uint64(64 - 8 * size)))


@kernel
def _count(
    buffer: Bytes,
    offsets: Integers,
    starts: Integers,
    num_bytes: Lengths,
    is_distinct: bool,
    ignores_case: bool,
    enough: int,
    out: Integers,
) -> None:
    for d in range(offsets.size - 1):
        count, seen = 0, 0
        for first in range(offsets[d], offsets[d + 1], _AT_ONCE):
            for i in range(first, min(first + _AT_ONCE, offsets[d + 1])):
                # No stop word has eight bytes, so the eight of a longer one are none.
                size = min(num_bytes[i], 8)
                word = load_8(buffer, starts[i]) & (_ALL >> np.uint64(64 - 8 * size))
                if ignores_case:
                    word = _lowered(word, size)
                found = _stop_word(word)
                count += 1 if found != 0 else 0
                seen |= found
            out[d] = count_ones(np.uint64(seen)) if is_distinct else count
            if 0 < enough <= out[d]:
                break


def stop_words_reference(words: list[str], conventions: Conventions) -> int:
    """The same of one text's words, in plain Python."""
    if conventions.dialect == "datatrove":
        return len(set(words) & set(STOP_WORDS))
    ignores_case = conventions.dialect == "dclm"
    return sum(1 for word in words if (word.lower() if ignores_case else word) in STOP_WORDS)
