"""MinHash signatures of documents (Broder 1997), with the parameters of FineWeb and datatrove.

    n-grams 5 words, 14 buckets x 8 hashes, seed 1
    P(two documents share a bucket) = 1 - (1 - J^8)^14: 0.92 at Jaccard J = 0.8, 0.5 at 0.72

The permutations are datatrove's, bit for bit: h -> ((a * h + b) mod 2^64) mod (2^61 - 1), where the
product wraps before the modulus. Words are our own. As in datatrove, case, diacritics and
punctuation are ignored and a number counts as 0; unlike there, words are cut at what is not a
letter or digit instead of by spaCy; one Han, kana, Thai or Lao character is one word, because those
scripts do not write spaces; and from U+0800 on letters, marks and digits stay as they are.

Fast path: numba kernels over a batch of texts. Readable reference: `words`, `shingles_reference`
and `signature_reference`, which the tests hold equal to it.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.data.jit import kernel
from llmtools.errors import UsageError

Hashes = npt.NDArray[np.uint64]

MERSENNE_61 = (1 << 61) - 1
_NO_HASH = np.uint64(0xFFFFFFFFFFFFFFFF)

# Multipliers and shifts of FNV-1a and of splitmix64; any odd constants with well spread bits do.
_FNV_BASIS = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_MIX_A = np.uint64(0x9E3779B97F4A7C15)
_MIX_B = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT_A = np.uint64(29)
_SHIFT_B = np.uint64(32)

# What the table of `_fold_table` says of a code point besides "counts as this letter".
_SEPARATOR, _SKIPPED = 0, 1
_ZERO = ord("0")
_TABLE_SIZE = 0x800


@dataclass(frozen=True, slots=True, kw_only=True)
class MinHashSettings:
    """Which signatures are made; equal settings give comparable signatures."""

    n_grams: int = 5
    num_buckets: int = 14
    hashes_per_bucket: int = 8
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("n_grams", "num_buckets", "hashes_per_bucket"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed is {self.seed}; it must be between 0 and 2^32 - 1")

    @property
    def num_hashes(self) -> int:
        return self.num_buckets * self.hashes_per_bucket


def permutations(settings: MinHashSettings) -> tuple[Hashes, Hashes]:
    """Factors a and summands b of the permutations, each (num_hashes,) uint64.

    source: datatrove 0.10 MinhashDedupSignature.parameters, including the order of the draws.
    """
    draw = np.random.RandomState(settings.seed).randint
    a = draw(1, MERSENNE_61, dtype=np.uint64, size=settings.num_hashes)
    b = draw(0, MERSENNE_61, dtype=np.uint64, size=settings.num_hashes)
    return a, b


def shingles(batch: Batch, n_grams: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """64-bit hashes of the word n-grams of each document, in order, duplicates kept.

    Returns (hashes, offsets): document d has hashes[offsets[d] : offsets[d + 1]], none when it has
    fewer than `n_grams` words.
    """
    longest = int(np.diff(batch.offsets).max(initial=0))
    offsets = np.zeros(batch.offsets.size, np.int64)
    # A word takes two bytes, itself and what ends it, or three where it is one wide character.
    hashes = np.empty(batch.buffer.size // 2 + offsets.size, np.uint64)
    words_of_one = np.empty(longest // 2 + 1, np.uint64)
    _shingle(batch.buffer, batch.offsets, _fold_table(), n_grams, words_of_one, hashes, offsets)
    return hashes[: offsets[-1]], offsets


def signatures(hashes: Hashes, offsets: npt.NDArray[np.int64], settings: MinHashSettings) -> Hashes:
    """MinHash signatures (D, num_hashes) of the shingle hashes of D documents.

    P[x[i] == y[i]] = Jaccard of the two shingle sets. A document without shingles gets all ones,
    which no permutation produces.
    """
    a, b = permutations(settings)
    out = np.empty((offsets.size - 1, settings.num_hashes), np.uint64)
    _sign(hashes, offsets, a, b, out)
    return out


def bucket_keys(signature: Hashes, settings: MinHashSettings) -> Hashes:
    """One 64-bit key per bucket, (D, num_buckets): equal when all hashes of the bucket are.

    Unequal buckets share a key with probability 2^-64 per pair: for a billion documents, one false
    pair is expected in about two corpora.
    """
    parts = signature.reshape(-1, settings.num_buckets, settings.hashes_per_bucket)
    keys = np.zeros(parts.shape[:2], np.uint64)
    for row in range(settings.hashes_per_bucket):
        keys = (keys ^ parts[:, :, row]) * _MIX_A
        keys ^= keys >> _SHIFT_A
    return keys


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
def _hash_words(
    buffer: npt.NDArray[np.uint8],
    start: int,
    stop: int,
    fold: npt.NDArray[np.uint32],
    out: Hashes,
) -> int:
    """Hash the words of one valid UTF-8 text into `out`; returns how many there are."""
    num_words = 0
    in_word = False
    # A number is digits, or digits, one '.' or ',' and digits: 0 outside, 1 before, 2 after it.
    number_part = 0
    x = _FNV_BASIS
    i = start
    while i < stop:
        c = np.uint32(buffer[i])
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
            out[num_words] = x ^ (x >> _SHIFT_B)
            num_words += 1
            in_word = False
        if is_whole:
            x = (_FNV_BASIS ^ np.uint64(folded)) * _FNV_PRIME
            out[num_words] = x ^ (x >> _SHIFT_B)
            num_words += 1
        elif folded != _SEPARATOR:
            if not in_word:
                in_word = True
                x = _FNV_BASIS
            x = (x ^ np.uint64(folded)) * _FNV_PRIME
    if in_word:
        out[num_words] = x ^ (x >> _SHIFT_B)
        num_words += 1
    return num_words


@kernel
def _shingle(
    buffer: npt.NDArray[np.uint8],
    text_offsets: npt.NDArray[np.int64],
    fold: npt.NDArray[np.uint32],
    n_grams: int,
    words_of_one: Hashes,
    hashes: Hashes,
    offsets: npt.NDArray[np.int64],
) -> None:
    total = 0
    for d in range(text_offsets.size - 1):
        num_words = _hash_words(buffer, text_offsets[d], text_offsets[d + 1], fold, words_of_one)
        for i in range(num_words - n_grams + 1):
            x = np.uint64(0)
            for j in range(n_grams):
                x = (x ^ words_of_one[i + j]) * _MIX_A
                x ^= x >> _SHIFT_A
            x *= _MIX_B
            hashes[total] = x ^ (x >> _SHIFT_B)
            total += 1
        offsets[d + 1] = total


@kernel
def _sign(
    hashes: Hashes, offsets: npt.NDArray[np.int64], a: Hashes, b: Hashes, out: Hashes
) -> None:
    prime = np.uint64(MERSENNE_61)
    bits = np.uint64(61)
    for d in range(offsets.size - 1):
        # A slice, because an index that might be negative keeps LLVM from vector code.
        own = hashes[offsets[d] : offsets[d + 1]]
        for k in range(a.size):
            least = _NO_HASH
            for i in range(own.size):
                v = own[i] * a[k] + b[k]
                # v mod (2^61 - 1): 2^61 = 1, so the upper three bits are added to the lower 61.
                v = (v >> bits) + (v & prime)
                # Where v < prime the difference wraps round to a huge number. Written as
                # "if v >= prime: v -= prime" the loop stays scalar, four times slower.
                least = min(least, min(v, v - prime))
            out[d, k] = least


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
    for character in word:
        x = (x ^ ord(character)) * int(_FNV_PRIME) % 2**64
    return x ^ (x >> 32)


def shingles_reference(text: str, n_grams: int) -> list[int]:
    """The shingle hashes of one text, in plain Python."""
    hashed = [_hash_word(word) for word in words(text)]
    out = []
    for i in range(len(hashed) - n_grams + 1):
        x = 0
        for word in hashed[i : i + n_grams]:
            x = (x ^ word) * int(_MIX_A) % 2**64
            x ^= x >> 29
        x = x * int(_MIX_B) % 2**64
        out.append(x ^ (x >> 32))
    return out


def signature_reference(hashes: Hashes, settings: MinHashSettings) -> Hashes:
    """The signature of one document in numpy, the formula as datatrove writes it.

    hashes: (n,) uint64 with n >= 1; returns (num_hashes,) uint64.
    """
    a, b = permutations(settings)
    permuted: Hashes = (hashes[:, None] * a + b) % np.uint64(MERSENNE_61)
    least: Hashes = permuted.min(axis=0)
    return least
