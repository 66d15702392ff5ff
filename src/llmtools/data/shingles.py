"""Word and character n-grams of texts, as 64-bit hashes.

As in datatrove, case, diacritics and punctuation are ignored and a number counts as 0; unlike
there, words are cut at what is not a letter or digit instead of by spaCy; one Han, kana, Thai or
Lao character is one word, because those scripts do not write spaces; and from U+0800 on letters,
marks and digits stay as they are. Character n-grams are of the text as it is.

Fast path: a numba kernel over a batch of texts. Readable reference: `words`, `shingles_reference`.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.instructions import load_8, trailing_zeros
from llmtools.jit import kernel

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]

# Multipliers and shifts of FNV-1a and of splitmix64; any odd constants with well spread bits do.
_FNV_BASIS = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_ROLL = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT_A = np.uint64(29)
_SHIFT_B = np.uint64(32)
# One value in each of eight bytes.
_EACH_05, _EACH_1F, _EACH_20, _EACH_7F, _EACH_80 = (
    np.uint64(value * 0x0101010101010101) for value in (0x05, 0x1F, 0x20, 0x7F, 0x80)
)

# What the table of `_fold_table` says of a code point besides "counts as this letter".
_SEPARATOR, _SKIPPED = 0, 1
_ZERO = ord("0")
_FIRST_LETTER = ord("a")
_TABLE_SIZE = 0x800


def shingles(batch: Batch, n_grams: int) -> tuple[Hashes, Integers]:
    """64-bit hashes of the word n-grams of each document, in order, duplicates kept.

    Returns (hashes, offsets): document d has hashes[offsets[d] : offsets[d + 1]], none when it has
    fewer than `n_grams` words.
    """
    longest = int(np.diff(batch.offsets).max(initial=0))
    offsets = np.zeros(batch.offsets.size, np.int64)
    # A word takes two bytes, itself and what ends it, or three where it is one wide character.
    hashes = np.empty(batch.buffer.size // 2 + offsets.size, np.uint64)
    words_of_one = np.empty(longest // 2 + 2, np.uint64)
    _shingle(batch.buffer, batch.offsets, _fold_table(), n_grams, words_of_one, hashes, offsets)
    return hashes[: offsets[-1]], offsets


def character_shingles(batch: Batch, n_grams: int) -> tuple[Hashes, Integers]:
    """64-bit hashes of the n-grams of code points, as `shingles` gives those of words."""
    longest = int(np.diff(batch.offsets).max(initial=0))
    offsets = np.zeros(batch.offsets.size, np.int64)
    hashes = np.empty(batch.buffer.size, np.uint64)
    points = np.empty(longest, np.uint64)
    _shingle_characters(batch.buffer, batch.offsets, n_grams, points, hashes, offsets)
    return hashes[: offsets[-1]], offsets


def plain_shingles(text: str, n_grams: int) -> Hashes:
    """Hashes of the distinct n-grams of lower-cased words between white space, sorted."""
    words = " ".join(text.lower().split()).encode("utf-8", "surrogatepass")
    buffer = np.frombuffer(words, np.uint8)
    hashes = np.empty(buffer.size // 2 + 1, np.uint64)
    out = np.empty(hashes.size, np.uint64)
    num_grams = _shingle_plain(buffer, n_grams, hashes, out)
    return np.unique(out[:num_grams])


@functools.cache
def _fold_table() -> npt.NDArray[np.uint32]:
    """What each code point below U+0800 counts as; everything above is decided by `_fold_wide`."""
    return np.array([_fold(chr(c)) for c in range(_TABLE_SIZE)], np.uint32)


def _fold(character: str) -> int:
    """Lower case without diacritics; a digit is '0', a combining mark and other signs are marks."""
    base = unicodedata.normalize("NFD", character.lower())[0]
    category = unicodedata.category(base)
    if category == "Mn":
        return _SKIPPED
    if category == "Nd":
        return _ZERO
    return ord(base) if category[0] in "LN" else _SEPARATOR


@kernel
def _fold_wide(c: int) -> int:
    """The same for code points from U+0800, where only blocks of punctuation are told apart."""
    is_separator = (
        0x2000 <= c < 0x2070  # general punctuation
        or 0x3000 <= c < 0x3040  # CJK punctuation
        or 0xFF01 <= c < 0xFF10  # full-width forms of ASCII punctuation
        or 0xFF1A <= c < 0xFF21
    )
    return _SEPARATOR if is_separator else c


@kernel
def _is_whole_word(c: int) -> bool:
    """Scripts without spaces: Thai and Lao, kana and Han."""
    return (
        0x0E00 <= c < 0x0F00
        or 0x3040 <= c < 0xA000
        or 0xF900 <= c < 0xFB00
        or 0x20000 <= c < 0x40000
    )


@kernel
def _leading_letters(word: int) -> Any:
    """How many of eight bytes, lowest first, are ASCII letters before the first that is none."""
    low = (word | _EACH_20) & _EACH_7F
    # The top bit of each byte: at least 'a', and not above 'z', and ASCII.
    letters = (low + _EACH_1F) & ~(low + _EACH_05) & ~word & _EACH_80
    return trailing_zeros(~letters & _EACH_80) >> 3


@kernel
def _hash_words(
    buffer: Bytes, start: int, stop: int, fold: npt.NDArray[np.uint32], out: Hashes
) -> int:
    """Hash the words of one valid UTF-8 text into `out`; returns how many there are.

    A word is taken in groups of eight code points, each shifted by eight bits a place, so that
    eight ASCII letters are the bytes as they lie in memory, in lower case.
    """
    num_words = 0
    # A number is digits, or digits, one '.' or ',' and digits: 0 outside, 1 before, 2 after it.
    number_part = 0
    in_word = False
    x = _FNV_BASIS
    group = np.uint64(0)
    place = np.uint64(0)
    last_load = min(stop, buffer.size - 8)
    i = start
    while i < stop:
        c = np.uint32(buffer[i])
        if c < 128:
            folded = fold[c]
            if folded >= _FIRST_LETTER and place == 0 and i <= last_load:
                bits = load_8(buffer, i)
                found = min(_leading_letters(bits), np.int64(stop - i))
                i += found
                in_word = True
                number_part = 0
                place = np.uint64(8) * np.uint64(found)
                if found == 8:
                    x = (x ^ (bits | _EACH_20)) * _FNV_PRIME
                    x ^= x >> _SHIFT_B
                    place = np.uint64(0)
                else:
                    group = (bits | _EACH_20) & ((np.uint64(1) << place) - np.uint64(1))
                continue
            i += 1
        else:
            i += 1
            if c >= 0xC0:
                extra = 1 if c < 0xE0 else (2 if c < 0xF0 else 3)
                c &= np.uint32(0x3F >> extra)
                for _ in range(extra):
                    c = (c << np.uint32(6)) | np.uint32(buffer[i] & 0x3F)
                    i += 1
            folded = fold[c] if c < _TABLE_SIZE else np.uint32(_fold_wide(int(c)))
        if folded == _SKIPPED:
            number_part = 0
            continue
        if folded == _ZERO:
            if number_part != 0:
                continue
            number_part = 1
        elif number_part == 1 and (c == 46 or c == 44) and i < stop and 48 <= buffer[i] <= 57:
            number_part = 2
            continue
        else:
            number_part = 0
        is_whole = c >= _TABLE_SIZE and _is_whole_word(int(c))
        if in_word and (folded == _SEPARATOR or is_whole):
            x = (x ^ group) * _FNV_PRIME
            out[num_words] = x ^ (x >> _SHIFT_B)
            num_words += 1
            in_word = False
            x = _FNV_BASIS
            group = np.uint64(0)
            place = np.uint64(0)
        if is_whole:
            x = (x ^ np.uint64(folded)) * _FNV_PRIME
            out[num_words] = x ^ (x >> _SHIFT_B)
            num_words += 1
            x = _FNV_BASIS
        elif folded != _SEPARATOR:
            in_word = True
            group ^= np.uint64(folded) << place
            place += np.uint64(8)
            if place == 64:
                x = (x ^ group) * _FNV_PRIME
                x ^= x >> _SHIFT_B
                group = np.uint64(0)
                place = np.uint64(0)
    if in_word:
        x = (x ^ group) * _FNV_PRIME
        out[num_words] = x ^ (x >> _SHIFT_B)
        num_words += 1
    return num_words


@kernel
def _roll(values: Hashes, n: int, out: Hashes) -> int:
    """Hashes of the n-grams of `values` into `out`; returns how many there are.

    A polynomial of the n values, mixed. Its top coefficient leaves as the next value enters.
    """
    num_grams = values.size - n + 1
    if num_grams < 1:
        return 0
    top = np.uint64(1)
    x = np.uint64(0)
    for i in range(n - 1):
        top *= _ROLL
        x = x * _ROLL + values[i]
    for i in range(num_grams):
        x = x * _ROLL + values[i + n - 1]
        mixed = (x ^ (x >> _SHIFT_A)) * _MIX
        out[i] = mixed ^ (mixed >> _SHIFT_B)
        x -= top * values[i]
    return num_grams


@kernel
def _shingle(
    buffer: Bytes,
    text_offsets: Integers,
    fold: npt.NDArray[np.uint32],
    n_grams: int,
    words_of_one: Hashes,
    hashes: Hashes,
    offsets: Integers,
) -> None:
    total = 0
    for d in range(text_offsets.size - 1):
        num_words = _hash_words(buffer, text_offsets[d], text_offsets[d + 1], fold, words_of_one)
        total += _roll(words_of_one[:num_words], n_grams, hashes[total:])
        offsets[d + 1] = total


@kernel
def _shingle_characters(
    buffer: Bytes,
    text_offsets: Integers,
    n_grams: int,
    points: Hashes,
    hashes: Hashes,
    offsets: Integers,
) -> None:
    total = 0
    for d in range(text_offsets.size - 1):
        num_points = 0
        x = np.uint64(0)
        for i in range(text_offsets[d], text_offsets[d + 1]):
            c = buffer[i]
            if (c & 0xC0) != 0x80:
                if i > text_offsets[d]:
                    points[num_points] = x
                    num_points += 1
                x = np.uint64(c)
            else:
                x = (x << np.uint64(8)) | np.uint64(c)
        if text_offsets[d + 1] > text_offsets[d]:
            points[num_points] = x
            num_points += 1
        total += _roll(points[:num_points], n_grams, hashes[total:])
        offsets[d + 1] = total


@kernel
def _shingle_plain(buffer: Bytes, n_grams: int, words: Hashes, out: Hashes) -> int:
    num_words = 0
    x = _FNV_BASIS
    for i in range(buffer.size):
        if buffer[i] == 32:
            words[num_words] = x ^ (x >> _SHIFT_B)
            num_words += 1
            x = _FNV_BASIS
        else:
            x = (x ^ np.uint64(buffer[i])) * _FNV_PRIME
    if buffer.size:
        words[num_words] = x ^ (x >> _SHIFT_B)
        num_words += 1
    return _roll(words[:num_words], n_grams, out)


@functools.cache
def _number() -> re.Pattern[str]:
    digits = "".join(chr(c) for c in range(_TABLE_SIZE) if _fold(chr(c)) == _ZERO)
    return re.compile(f"[{digits}]+([.,](?=[0-9])[{digits}]+)?")


def words(text: str) -> list[str]:
    """The words of a text as the kernel sees them: folded, cut, numbers as 0 (reference)."""
    out = [""]
    for character in _number().sub("0", text):
        code = ord(character)
        folded = _fold(character) if code < _TABLE_SIZE else _fold_wide(code)
        if folded == _SEPARATOR:
            out.append("")
        elif code >= _TABLE_SIZE and _is_whole_word(code):
            out += [character, ""]
        elif folded != _SKIPPED:
            out[-1] += chr(folded)
    return [word for word in out if word]


def _hash_word(word: str) -> int:
    x = int(_FNV_BASIS)
    for start in range(0, len(word) + 1, 8):
        group = 0
        for place, character in enumerate(word[start : start + 8]):
            group ^= ord(character) << (8 * place) & (1 << 64) - 1
        x = (x ^ group) * int(_FNV_PRIME) % 2**64
        x ^= x >> 32
    return x


def _roll_reference(values: list[int], n: int) -> list[int]:
    out = []
    for i in range(len(values) - n + 1):
        x = 0
        for value in values[i : i + n]:
            x = (x * int(_ROLL) + value) % 2**64
        x = (x ^ (x >> 29)) * int(_MIX) % 2**64
        out.append(x ^ (x >> 32))
    return out


def shingles_reference(text: str, n_grams: int) -> list[int]:
    """The word shingle hashes of one text, in plain Python."""
    return _roll_reference([_hash_word(word) for word in words(text)], n_grams)


def character_shingles_reference(text: str, n_grams: int) -> list[int]:
    """The character shingle hashes of one text, in plain Python."""
    return _roll_reference([int.from_bytes(c.encode(), "big") for c in text], n_grams)
