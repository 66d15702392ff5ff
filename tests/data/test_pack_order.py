"""A shuffle depends on the seed alone, and every epoch has every document once."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.test_pack_rows import Documents, write_frames
from llmtools.data.pack import PackSettings, pack
from llmtools.data.pack_order import order_keys
from llmtools.formats.packed import PADDING_DOCUMENT_ID, PackedDataset


def documents_of(lengths: list[int]) -> Documents:
    return [
        (at + 1, [at % 900] * length, [1, 0, 1][:length] if at % 5 == 0 else None)
        for at, length in enumerate(lengths)
    ]


def packed_ids(folder: Path, documents: Documents, cuts: list[int], **changes: Any) -> list[int]:
    """Documents in the order of their tokens in rows of one token each."""
    bounds = [0, *cuts, len(documents)]
    frames = [documents[a:b] for a, b in pairwise(bounds)]
    name = f"{len(list(folder.iterdir()))}"
    source = write_frames(folder / f"{name}.frames", frames)
    out = folder / f"{name}.rows"
    pack([str(source)], str(out), PackSettings(seq_len=1, **changes))
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "train-00000.safetensors"]
    ids, lengths = PackedDataset(out).segments()
    repeated = np.repeat(ids, lengths)
    return [int(one) for one in repeated if one != PADDING_DOCUMENT_ID]


@given(
    lengths=st.lists(st.integers(0, 3), min_size=2, max_size=60),
    memory=st.integers(200, 6000),
    seed=st.integers(0, 2**64 - 1),
    data=st.data(),
)
@settings(max_examples=15)
def test_the_order_is_that_of_the_keys_whatever_the_memory_and_the_frames(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    memory: int,
    seed: int,
    data: st.DataObject,
) -> None:
    documents = documents_of([*lengths, 1])
    cuts = sorted(data.draw(st.sets(st.integers(0, len(documents)), max_size=4)))
    folder = tmp_path_factory.mktemp("p")
    found = packed_ids(folder, documents, cuts, shuffle=True, seed=seed, epochs=2, memory=memory)
    expected = []
    for epoch in range(2):
        order = np.argsort(order_keys(seed, epoch, 0, len(documents)))
        for at in order.tolist():
            expected += [at + 1] * len(documents[at][1])
    assert found == expected


def test_epochs_without_a_shuffle_repeat_the_input(tmp_path: Path) -> None:
    documents = documents_of([1, 2, 3, 1])
    for memory in (1, 1 << 20):
        found = packed_ids(tmp_path, documents, [1, 2], epochs=3, memory=memory)
        assert found == [1, 2, 2, 3, 3, 3, 4] * 3


def test_another_seed_and_another_epoch_give_another_order(tmp_path: Path) -> None:
    documents = documents_of([1] * 50)
    one = packed_ids(tmp_path, documents, [], shuffle=True, seed=1, epochs=2)
    two = packed_ids(tmp_path, documents, [], shuffle=True, seed=2, epochs=2)
    again = packed_ids(tmp_path, documents, [], shuffle=True, seed=1, epochs=2)
    assert one == again != two
    assert one[:50] != one[50:]
    assert sorted(one[:50]) == sorted(one[50:]) == list(range(1, 51))


def test_keys_are_different_and_spread_evenly() -> None:
    keys = np.concatenate([order_keys(3, 0, 0, 50_000), order_keys(3, 0, 50_000, 50_000)])
    assert (keys == order_keys(3, 0, 0, 100_000)).all()
    assert len(np.unique(keys)) == len(keys)
    # Order statistics of a random permutation: neighbours in the input are no neighbours after it.
    ranks = np.argsort(np.argsort(keys))
    assert abs(np.corrcoef(ranks[:-1], ranks[1:])[0, 1]) < 0.02
    counts = np.bincount((keys >> np.uint64(56)).astype(int), minlength=256)
    assert 300 < counts.min() < counts.max() < 490
    for other in (order_keys(3, 1, 0, 1000), order_keys(4, 0, 0, 1000)):
        assert not np.isin(other, keys).any()


def test_masks_and_ids_travel_through_files(tmp_path: Path) -> None:
    documents = documents_of([3] * 40)
    source = write_frames(tmp_path / "f", [documents[:7], documents[7:]])
    out = tmp_path / "out"
    pack([str(source)], str(out), PackSettings(seq_len=2, shuffle=True, memory=400))
    dataset = PackedDataset(out)
    for index in range(dataset.num_rows):
        row = dataset.row(index)
        [owner] = row.segment_document_ids.tolist()
        _, ids, mask = documents[owner - 1]
        assert row.input_ids.tolist() == ids
        assert row.loss_mask is not None
        assert row.loss_mask.tolist() == (mask or [1, 1, 1])
