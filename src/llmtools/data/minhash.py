"""MinHash signatures of documents (Broder 1997) and their buckets.

    P(two documents share a bucket) = 1 - (1 - J^r)^b at Jaccard J, with b buckets of r hashes

Two dialects of permutations. `llmtools`: h -> a h + b mod 2^32 of the shingle hash's upper half, a
odd; ten times as fast. `datatrove`: theirs, bit for bit, h -> ((a h + b) mod 2^64) mod (2^61 - 1),
where the product wraps before the modulus.

Fast path: numba kernels. Readable reference: `signature_reference`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llmtools.data.batch import Batch
from llmtools.data.shingles import character_shingles, shingles
from llmtools.errors import UsageError
from llmtools.jit import kernel

Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
Dialect = Literal["llmtools", "datatrove"]

MERSENNE_61 = (1 << 61) - 1
_NO_HASH = np.uint64(0xFFFFFFFFFFFFFFFF)
_NO_HALF = np.uint32(0xFFFFFFFF)
_HALF = np.uint64(32)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)

# The parameters of published corpora and tools.
PRESETS: dict[str, dict[str, Any]] = {
    # FineWeb and datatrove's MinhashConfig
    "fineweb": {"n_grams": 5, "num_buckets": 14, "hashes_per_bucket": 8},
    # OLMo 3's production settings of duplodocus (there over cl100k tokens, here over words)
    "olmo3": {"n_grams": 5, "num_buckets": 26, "hashes_per_bucket": 11},
    # RedPajama-Data-v2 at 0.8: 13-grams, 128 permutations cut by datasketch's optimal parameters
    "rpv2": {"n_grams": 13, "num_buckets": 9, "hashes_per_bucket": 13},
    # NeMo Curator: 24 characters
    "curator": {"char_n_grams": 24, "num_buckets": 20, "hashes_per_bucket": 13},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MinHashSettings:
    """Which signatures are made; equal settings give comparable signatures.

    char_n_grams: shingles of so many characters instead of `n_grams` words, where it is not 0.
    """

    n_grams: int = 5
    char_n_grams: int = 0
    num_buckets: int = 18
    hashes_per_bucket: int = 8
    seed: int = 1
    dialect: Dialect = "llmtools"

    def __post_init__(self) -> None:
        for name in ("n_grams", "num_buckets", "hashes_per_bucket"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.char_n_grams < 0:
            raise UsageError(f"char_n_grams is {self.char_n_grams}; it must be at least 0")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed is {self.seed}; it must be between 0 and 2^32 - 1")

    @property
    def num_hashes(self) -> int:
        return self.num_buckets * self.hashes_per_bucket


@functools.cache
def permutations(settings: MinHashSettings) -> tuple[Any, Any]:
    """Factors a and summands b, each (num_hashes,): uint64 for datatrove, else uint32.

    source: datatrove 0.10 MinhashDedupSignature.parameters, including the order of the draws.
    """
    draw = np.random.RandomState(settings.seed).randint
    if settings.dialect == "datatrove":
        a = draw(1, MERSENNE_61, dtype=np.uint64, size=settings.num_hashes)
        return a, draw(0, MERSENNE_61, dtype=np.uint64, size=settings.num_hashes)
    halves = draw(0, 1 << 32, dtype=np.uint32, size=(2, settings.num_hashes))
    return halves[0] | np.uint32(1), halves[1]


def sign(batch: Batch, settings: MinHashSettings) -> tuple[Hashes, npt.NDArray[np.bool_]]:
    """Bucket keys (D, num_buckets) of a batch, and which documents have shingles at all, (D,)."""
    if settings.char_n_grams:
        hashes, offsets = character_shingles(batch, settings.char_n_grams)
    else:
        hashes, offsets = shingles(batch, settings.n_grams)
    return bucket_keys(signatures(hashes, offsets, settings), settings), np.diff(offsets) > 0


def signatures(hashes: Hashes, offsets: Integers, settings: MinHashSettings) -> Any:
    """MinHash signatures (D, num_hashes) of the shingle hashes of D documents.

    P[x[i] == y[i]] = Jaccard of the two shingle sets. uint64 for datatrove, else uint32. A document
    without shingles gets all ones.
    """
    a, b = permutations(settings)
    out = np.empty((offsets.size - 1, settings.num_hashes), a.dtype)
    if settings.dialect == "datatrove":
        _sign_wide(hashes, offsets, a, b, out)
    else:
        _sign(hashes, offsets, a, b, out)
    return out


def bucket_keys(signature: Any, settings: MinHashSettings) -> Hashes:
    """One 64-bit key per bucket, (D, num_buckets): equal when all hashes of the bucket are.

    Unequal buckets share a key with probability 2^-64 per pair: for a billion documents, one false
    pair is expected in about two corpora.
    """
    parts = signature.reshape(-1, settings.num_buckets, settings.hashes_per_bucket)
    keys = np.zeros(parts.shape[:2], np.uint64)
    for row in range(settings.hashes_per_bucket):
        keys = (keys ^ parts[:, :, row]) * _MIX
        keys ^= keys >> _SHIFT
    return keys


@kernel
def _sign(
    hashes: Hashes,
    offsets: Integers,
    a: npt.NDArray[np.uint32],
    b: npt.NDArray[np.uint32],
    out: npt.NDArray[np.uint32],
) -> None:
    for d in range(offsets.size - 1):
        own = hashes[offsets[d] : offsets[d + 1]]
        row = out[d]
        for k in range(row.size):
            row[k] = _NO_HALF
        # Four shingles a round, so that a row of minima is loaded and stored a quarter as often.
        # Permutations inside, because those are what fills vector registers.
        rounds = own.size // 4
        for i in range(0, 4 * rounds, 4):
            h0 = np.uint32(own[i] >> _HALF)
            h1 = np.uint32(own[i + 1] >> _HALF)
            h2 = np.uint32(own[i + 2] >> _HALF)
            h3 = np.uint32(own[i + 3] >> _HALF)
            for k in range(row.size):
                v0 = min(np.uint32(h0 * a[k] + b[k]), np.uint32(h1 * a[k] + b[k]))
                v1 = min(np.uint32(h2 * a[k] + b[k]), np.uint32(h3 * a[k] + b[k]))
                row[k] = min(row[k], min(v0, v1))
        for i in range(4 * rounds, own.size):
            h0 = np.uint32(own[i] >> _HALF)
            for k in range(row.size):
                row[k] = min(row[k], np.uint32(h0 * a[k] + b[k]))


@kernel
def _sign_wide(hashes: Hashes, offsets: Integers, a: Hashes, b: Hashes, out: Hashes) -> None:
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


def signature_reference(hashes: Hashes, settings: MinHashSettings) -> Any:
    """The signature of one document in numpy, the formulas as they are written above.

    hashes: (n,) uint64 with n >= 1; returns (num_hashes,).
    """
    a, b = permutations(settings)
    if settings.dialect == "datatrove":
        return ((hashes[:, None] * a + b) % np.uint64(MERSENNE_61)).min(axis=0)
    upper = (hashes >> _HALF).astype(np.uint32)
    return (upper[:, None] * a + b).min(axis=0)
