"""`llm dedup` beside datatrove's formula and beside brute-force Jaccard similarity."""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from pathlib import Path

import numpy as np
import pytest

from llmtools.data.duplicates import find_duplicates
from llmtools.data.minhash import PRESETS, MinHashSettings, bucket_keys, signatures
from llmtools.data.shingles import shingles
from llmtools.formats.document import read_documents
from text_batches import batch_of

SETTINGS = MinHashSettings()
DATATROVE = MinHashSettings(**PRESETS["fineweb"], dialect="datatrove")
PRIME = 2**61 - 1

# What datatrove 0.10.1 (MinhashConfig(), get_signature) gives for the shingle hashes of
# `known_hashes`: the first bucket, and sha256 of all 14 x 8 values as little-endian uint64.
FIRST_BUCKET = [
    934204014174561,
    1850623175298940,
    1466825792045081,
    3012346764759923,
    2387654754875565,
    2489634744736714,
    31822402515649735,
    36720603227509063,
]
ALL_BUCKETS = "aa00c78f8d83d37ea4c3312bd7d0be627cf570f26d911430b4338746fbf18206"


def known_hashes() -> np.ndarray:
    return np.arange(1, 1001, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def formula(hashes: np.ndarray, prime: int = PRIME, wraps: bool = True) -> list[int]:
    """datatrove's permutations in Python integers: (h a + b mod 2^64) mod prime."""
    draw = np.random.RandomState(1)
    a = draw.randint(1, PRIME, dtype=np.uint64, size=(1, 112))[0].tolist()
    b = draw.randint(0, PRIME, dtype=np.uint64, size=(1, 112))[0].tolist()
    word = 2**64 if wraps else 2**200
    return [
        min((h * x + y) % word % prime for h in hashes.tolist()) for x, y in zip(a, b, strict=True)
    ]


def test_signatures_are_datatroves_for_the_same_shingle_hashes() -> None:
    """Exact: integers, no tolerance."""
    hashes = known_hashes()
    found = signatures(hashes, np.array([0, hashes.size]), DATATROVE)[0]
    assert found[:8].tolist() == FIRST_BUCKET
    assert hashlib.sha256(found.astype("<u8").tobytes()).hexdigest() == ALL_BUCKETS
    assert found.tolist() == formula(hashes)


def test_the_signature_check_rejects_another_modulus_and_no_wrapping() -> None:
    hashes = known_hashes()
    assert formula(hashes, prime=2**61)[:8] != FIRST_BUCKET
    assert formula(hashes, wraps=False)[:8] != FIRST_BUCKET


def collisions(
    similarity: float, seed: int, settings: MinHashSettings, is_broken: bool = False
) -> float:
    """Share of random pairs of sets of this Jaccard similarity that meet in a bucket."""
    num_pairs, size = 400, 200
    shared = round(2 * size * similarity / (1 + similarity))
    rng = np.random.default_rng(seed)
    own = size - shared
    drawn = rng.integers(0, 2**64, (num_pairs, shared + 2 * own), dtype=np.uint64)
    left, right = drawn[:, : shared + own], np.delete(drawn, np.s_[shared : shared + own], axis=1)
    offsets = np.arange(num_pairs + 1) * size
    keys = []
    for side in (left, right):
        signed = signatures(np.ascontiguousarray(side).ravel(), offsets, settings)
        if is_broken:
            # One permutation used for a whole bucket: eight hashes that agree or differ together.
            signed = np.repeat(signed[:, ::8], 8, axis=1)
        keys.append(bucket_keys(signed, settings))
    return float((keys[0] == keys[1]).any(axis=1).mean())


def departure(settings: MinHashSettings, is_broken: bool = False) -> float:
    """Largest distance to the theory, P = 1 - (1 - J^r)^b, over several similarities."""
    rows, buckets = settings.hashes_per_bucket, settings.num_buckets
    return max(
        abs(collisions(j, seed, settings, is_broken) - (1 - (1 - j**rows) ** buckets))
        for seed, j in enumerate((0.4, 0.6, 0.7, 0.8, 0.9))
    )


@pytest.mark.parametrize("settings", [SETTINGS, DATATROVE], ids=["llmtools", "datatrove"])
def test_pairs_meet_as_often_as_the_theory_says(settings: MinHashSettings) -> None:
    """Within 0.08: three standard errors of 400 pairs are 0.075 where P = 1/2."""
    assert departure(settings) < 0.08


def test_the_collision_check_rejects_hashes_that_depend_on_each_other() -> None:
    assert departure(SETTINGS, is_broken=True) > 0.3


def word_sets(texts: list[str]) -> list[set[tuple[str, ...]]]:
    """5-word shingles of English text, defined without the code under test."""
    out = []
    for text in texts:
        words = re.findall(r"[a-z0]+", re.sub(r"\d+([.,]\d+)?", "0", text.lower()))
        out.append({tuple(words[i : i + 5]) for i in range(len(words) - 4)})
    return out


def recall_and_precision(texts: list[str], keys: np.ndarray) -> tuple[float, float]:
    """Of pairs with Jaccard >= 0.9, the share that meets; of pairs that meet, those >= 0.5."""
    sets = word_sets(texts)
    near = met = near_met = good_met = 0
    for i, j in itertools.combinations(range(len(texts)), 2):
        meets = bool((keys[i] == keys[j]).any())
        smaller, larger = sorted((len(sets[i]), len(sets[j])))
        if not meets and smaller < 0.9 * larger:
            continue
        union = len(sets[i] | sets[j])
        similarity = len(sets[i] & sets[j]) / union if union else 0.0
        near += similarity >= 0.9
        met += meets
        near_met += meets and similarity >= 0.9
        good_met += meets and similarity >= 0.5
    assert near > 30
    return near_met / near, good_met / max(met, 1)


def synthetic_copies() -> list[str]:
    """60 random texts and 60 copies with one word in 160 replaced."""
    draw = random.Random(5)
    vocabulary = [f"{a}{b}" for a in "abcdefghijklmnop" for b in "qrstuvwxyz"]
    texts = [" ".join(draw.choices(vocabulary, k=draw.randrange(150, 400))) for _ in range(60)]
    copies = [
        " ".join(w if i % 160 else draw.choice(vocabulary) for i, w in enumerate(t.split(), 1))
        for t in texts
    ]
    return texts + copies


def keys_of(texts: list[str]) -> np.ndarray:
    hashes, offsets = shingles(batch_of(texts), SETTINGS.n_grams)
    return bucket_keys(signatures(hashes, offsets, SETTINGS), SETTINGS)


def test_synthetic_copies_are_found_and_nothing_else() -> None:
    """Recall at least 0.95: P(meet) at Jaccard 0.9 is 0.9996. Precision 0.98."""
    texts = synthetic_copies()
    recall, precision = recall_and_precision(texts, keys_of(texts))
    assert recall >= 0.95
    assert precision >= 0.98


def test_the_recall_check_rejects_shingles_of_other_documents() -> None:
    texts = synthetic_copies()
    keys = keys_of(texts)
    keys[60:] = np.roll(keys[60:], 1, axis=0)
    recall, precision = recall_and_precision(texts, keys)
    assert recall < 0.5 and precision < 0.5


def test_real_near_duplicates_agree_with_brute_force(shared_data: Path) -> None:
    """Documentation of two Django versions and one guide for six architectures; same tolerances."""
    documents = read_documents([str(shared_data / "corpora" / "prose.jsonl.zst")])
    wanted = ("django", "Django", "installation-guide")
    texts = [d.text for d in documents if d.fields["source"].startswith(wanted)]
    assert len(texts) > 400
    recall, precision = recall_and_precision(texts, keys_of(texts))
    assert recall >= 0.95
    assert precision >= 0.98
    kept = find_duplicates([batch_of(texts)], SETTINGS).is_kept
    assert 0.3 < kept.mean() < 0.6
