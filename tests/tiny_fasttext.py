"""Small random fastText models of every kind, written byte by byte, and texts to ask them about."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

WORDS = ["</s>", "the", "of", "größe", "naïve", "日本", "и", "a", "__labelled", "end"]
LABELS = ["__label__en", "__label__de", "__label__ja", "__label__ru", "__label__x y"]
BUCKET = 500
TEXTS = [
    "the end of the naïve größe",
    "",
    "   ",
    "日本語 и the",
    "tabs\tand\vmore\f space\x00nul\r\nlines\nand the </s> ignored words after it",
    "__label__en __label__zz __labelled words",
    "a" * 300 + " " + "é" * 70,
    "the " * 400,
    "x",
    "مرحبا \u200f بالعالم 😀😀 > < <the>",
]


def write_model(
    path: Path,
    *,
    loss: int = 3,
    word_ngrams: int = 1,
    minn: int = 0,
    maxn: int = 0,
    dim: int = 7,
    is_quantised: bool = False,
    has_norms: bool = False,
    quantises_output: bool = False,
    is_pruned: bool = False,
    words: list[str] = WORDS,
    seed: int = 0,
) -> Path:
    """A model of random rows, version 12. loss: 1 tree, 2 negative sampling, 3 softmax, 4 ova."""
    chance = np.random.default_rng(seed)
    uses_buckets = maxn > 0 or word_ngrams > 1
    bucket = BUCKET if uses_buckets else 0
    kept = chance.choice(BUCKET, BUCKET // 2, replace=False) if is_pruned else []
    out = struct.pack("<2i", 793712314, 12)
    out += struct.pack(
        "<12id", dim, 5, 1, 1, 5, word_ngrams, loss, 3, bucket, minn, maxn, 100, 1e-4
    )
    out += struct.pack("<3i2q", len(words) + len(LABELS), len(words), len(LABELS), 1000,
                       len(kept) if is_pruned else -1)  # fmt: skip
    for number, name in enumerate([*words, *LABELS]):
        out += name.encode() + struct.pack("<xqb", 1000 - 37 * number, number >= len(words))
    for row, number in enumerate(kept):
        out += struct.pack("<2i", number, row)
    num_rows = len(words) + (len(kept) if is_pruned else bucket)
    for rows, is_packed in ((num_rows, is_quantised), (len(LABELS), quantises_output)):
        out += struct.pack("<B", is_packed)
        if is_packed:
            out += _quantised(rows, dim, has_norms, chance)
        else:
            out += struct.pack("<2q", rows, dim)
            out += chance.normal(size=(rows, dim)).astype("<f4").tobytes()
    path.write_bytes(out)
    return path


def _quantised(rows: int, dim: int, has_norms: bool, chance: np.random.Generator) -> bytes:
    parts, size = -(-dim // 2), 2
    out = struct.pack("<B2qi", has_norms, rows, dim, rows * parts)
    out += chance.bytes(rows * parts)
    out += struct.pack("<4i", dim, parts, size, dim - size * (parts - 1))
    out += chance.normal(size=dim * 256).astype("<f4").tobytes()
    if has_norms:
        out += chance.bytes(rows) + struct.pack("<4i", 1, 1, 1, 1)
        out += chance.uniform(0.5, 4, size=256).astype("<f4").tobytes()
    return out
