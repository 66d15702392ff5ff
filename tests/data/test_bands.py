"""Bands in memory and bands on disk hold the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmtools.data.bands import END, Bands, open_run
from llmtools.errors import InputError

BANDS = 3


def random_blocks(seed: int, num_blocks: int = 12) -> list[tuple[np.ndarray, np.ndarray]]:
    """Blocks of documents with many equal keys, at both ends of their range too."""
    draw = np.random.default_rng(seed)
    pool = np.r_[draw.integers(0, 2**64, 40, dtype=np.uint64), np.uint64(0), np.uint64(2**64 - 1)]
    blocks = []
    at = 0
    for _ in range(num_blocks):
        size = int(draw.integers(0, 30))
        skipped = np.sort(draw.choice(40, size, replace=False))
        blocks.append((at + skipped, draw.choice(pool, (size, BANDS))))
        at += 40
    return blocks


def contents(bands: Bands, band: int, low: int = 0, high: int = END) -> dict[int, set[int]]:
    """The documents of each key; fails where a key is in two chunks."""
    found: dict[int, set[int]] = {}
    for documents, keys in bands.chunks(band, low, high):
        chunk: dict[int, set[int]] = {}
        for document, key in zip(documents.tolist(), keys.tolist(), strict=True):
            chunk.setdefault(key, set()).add(document)
        assert not found.keys() & chunk.keys()
        found |= chunk
    return found


def expected(blocks: list[tuple[np.ndarray, np.ndarray]], band: int) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for documents, keys in blocks:
        for document, key in zip(documents.tolist(), keys[:, band].tolist(), strict=True):
            found.setdefault(key, set()).add(document)
    return found


@pytest.mark.parametrize("limit", [None, 1, 2_000, 100_000])
def test_every_limit_gives_the_same_rows(limit: int | None) -> None:
    for seed in range(5):
        blocks = random_blocks(seed)
        with Bands(BANDS, limit) as bands:
            for documents, keys in blocks:
                bands.add(documents, keys)
            for band in range(BANDS):
                assert contents(bands, band) == expected(blocks, band)


@pytest.mark.parametrize("limit", [None, 2_000])
def test_ranges_of_keys_are_a_partition(limit: int | None) -> None:
    blocks = random_blocks(7)
    with Bands(BANDS, limit) as bands:
        for documents, keys in blocks:
            bands.add(documents, keys)
        parts = [contents(bands, 1, END * i // 5, END * (i + 1) // 5) for i in range(5)]
    whole: dict[int, set[int]] = {}
    for part in parts:
        assert not whole.keys() & part.keys()
        whole |= part
    assert whole == expected(blocks, 1)


@pytest.mark.parametrize("limit", [None, 2_000])
def test_a_saved_run_read_back_adds_its_rows(tmp_path: Path, limit: int | None) -> None:
    old, new = random_blocks(1), random_blocks(2)
    path = tmp_path / "run.safetensors"
    with Bands(BANDS, limit) as bands, open(path, "wb+") as file:
        for documents, keys in old:
            bands.add(documents + 1_000, keys)
        bands.save(file, 1_000)
    with Bands(BANDS, limit) as bands:
        bands.attach(open_run(path, BANDS, 480))
        for documents, keys in new:
            bands.add(documents + 480, keys)
        both = old + [(documents + 480, keys) for documents, keys in new]
        for band in range(BANDS):
            assert contents(bands, band) == expected(both, band)
        assert bands.rows == sum(documents.size for documents, _ in new)


def test_files_that_are_no_runs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with Bands(BANDS) as bands, open(path, "wb+") as file:
        for documents, keys in random_blocks(3):
            bands.add(documents, keys)
        bands.save(file)
    whole = path.read_bytes()
    open_run(path, BANDS, 480).file.close()
    with pytest.raises(InputError, match="more keys than 5 documents"):
        open_run(path, BANDS, 5)
    with pytest.raises(InputError, match="not 4 bands"):
        open_run(path, BANDS + 1, 480)
    for length in (0, 7, 40, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            open_run(path, BANDS, 480)
    with pytest.raises(InputError, match="No such file"):
        open_run(tmp_path / "absent", BANDS, 1)
