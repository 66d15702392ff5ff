from __future__ import annotations

import random

import numpy as np
import pytest

from llmtools.data.minhash import (
    PRESETS,
    MinHashSettings,
    bucket_keys,
    signature_reference,
    signatures,
)
from llmtools.data.shingles import (
    character_shingles,
    character_shingles_reference,
    shingles,
    shingles_reference,
    words,
)
from llmtools.errors import UsageError
from text_batches import batch_of

AWKWARD = [
    "",
    " \n\t",
    "one two three four",
    "one two three four five",
    "Don't STOP, it's 3.14 or 2,718 and 1.2.3 - a1b22c v2.x 7. ,8",
    "Crème brûlée À LA CARTE; ÅNGSTRÖM Ελλάδα МОСКВА e\u0301te\u0301",
    "quotes “curly” – dash — and… ellipsis, no\u00a0break\u2003space",
    "日本語のテキストです。これは二番目の文です，全角ＡＢＣ１２３！",
    "ภาษาไทยไม่มีช่องว่าง ສະບາຍດີ",
    "한국어는 띄어쓰기를 한다 그래서 낱말이 있다",
    "emoji 😀 family 👨‍👩‍👧 and 𠀀𠀁 beyond the basic plane",
    "١٢٣ ٤٥٫٦ digits of other scripts １２ too ۴۵",
    "trailing number 12",
    "9.9",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Café's 3.14 (x_y)", ["the", "cafe", "s", "0", "x", "y"]),
        ("1.2.3 a12b 4,5. 6", ["0", "0", "a0b", "0", "0"]),
        ("日本go", ["日", "本", "go"]),
        ("—“”…", []),
    ],
)
def test_words_fold_case_marks_and_numbers(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_shingle_kernel_equals_the_reference() -> None:
    draw = random.Random(1)
    alphabet = "aZ9 .,é\u0301\u00a0ß日あ\u3002ก한😀\u2019-\n0"
    noise = ["".join(draw.choices(alphabet, k=draw.randrange(80))) for _ in range(2000)]
    for n_grams in (1, 2, 5):
        hashes, offsets = shingles(batch_of(AWKWARD + noise), n_grams)
        for d, text in enumerate(AWKWARD + noise):
            own = hashes[offsets[d] : offsets[d + 1]].tolist()
            assert own == shingles_reference(text, n_grams), text


def test_character_shingle_kernel_equals_the_reference() -> None:
    for n_grams in (1, 3, 24):
        hashes, offsets = character_shingles(batch_of(AWKWARD), n_grams)
        for d, text in enumerate(AWKWARD):
            own = hashes[offsets[d] : offsets[d + 1]].tolist()
            assert own == character_shingles_reference(text, n_grams), text


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_settings(preset: str) -> None:
    assert MinHashSettings(**PRESETS[preset]).num_hashes >= 112


@pytest.mark.parametrize("dialect", ["llmtools", "datatrove"])
@pytest.mark.parametrize("num_hashes", [1, 7, 8, 9, 1000])
def test_signature_kernel_equals_the_reference(num_hashes: int, dialect: str) -> None:
    settings = MinHashSettings(seed=3, dialect=dialect)
    hashes = np.random.default_rng(num_hashes).integers(0, 2**64, num_hashes, dtype=np.uint64)
    # Values at which the reduction modulo 2^61 - 1 could go wrong by one.
    hashes[0] = 2**64 - 1
    found = signatures(hashes, np.array([0, num_hashes]), settings)[0]
    assert found.tolist() == signature_reference(hashes, settings).tolist()


def test_a_document_without_shingles_has_a_signature_no_other_has() -> None:
    settings = MinHashSettings(dialect="datatrove")
    hashes, offsets = shingles(batch_of(["too short", "long enough to have a shingle"]), 5)
    found = signatures(hashes, offsets, settings)
    assert (found[0] == 2**64 - 1).all()
    assert (found[1] < 2**61 - 1).all()


def test_bucket_keys_are_equal_exactly_where_buckets_are() -> None:
    settings = MinHashSettings(num_buckets=3, hashes_per_bucket=2)
    rows = np.array([[1, 2, 3, 4, 5, 6], [1, 2, 4, 3, 5, 6], [2, 1, 3, 4, 6, 5]], np.uint64)
    keys = bucket_keys(rows, settings)
    assert (keys[0] == keys[1]).tolist() == [True, False, True]
    assert (keys[0] == keys[2]).tolist() == [False, True, False]


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"n_grams": 0}, {"num_buckets": 0}, {"hashes_per_bucket": -1}, {"seed": 2**32}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            MinHashSettings(**wrong)
