"""Packed shards: what is written is read, and what is malformed is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtools.errors import InputError
from llmtools.formats import tensor_header
from llmtools.formats.packed import PackedDataset, PackedRow, PackedWriter
from llmtools.formats.tokens import Vocabulary

SEQ_LEN = 7
VOCABULARY = Vocabulary(tokenizer="abc", vocab_size=100, eos=0)


@st.composite
def packed_rows(draw: st.DrawFn) -> PackedRow:
    cuts = sorted(draw(st.sets(st.integers(1, SEQ_LEN), max_size=SEQ_LEN)))
    lengths = np.diff([0, *cuts, SEQ_LEN + 1]).astype(np.int32)
    ids = draw(st.lists(st.integers(0, 99), min_size=SEQ_LEN + 1, max_size=SEQ_LEN + 1))
    masks = st.lists(st.integers(0, 1), min_size=SEQ_LEN + 1, max_size=SEQ_LEN + 1)
    mask = draw(st.none() | masks)
    names = st.lists(st.integers(0, 2**64 - 1), min_size=len(lengths), max_size=len(lengths))
    return PackedRow(
        input_ids=np.array(ids, np.uint16),
        segment_lengths=lengths,
        segment_document_ids=np.array(draw(names), np.uint64),
        loss_mask=None if mask is None else np.array(mask, np.uint8),
    )


def plain_row(ids: range = range(SEQ_LEN + 1)) -> PackedRow:
    return PackedRow(
        input_ids=np.array(ids, np.uint16),
        segment_lengths=np.array([3, 5], np.int32),
        segment_document_ids=np.array([1, 2], np.uint64),
    )


def write(directory: Path, rows: list[PackedRow], rows_per_shard: int | None = None) -> Path:
    directory.mkdir(exist_ok=True)
    writer = PackedWriter(
        directory, seq_len=SEQ_LEN, vocabulary=VOCABULARY, rows_per_shard=rows_per_shard
    )
    for row in rows:
        writer.add(row)
    writer.close()
    return directory


@given(st.lists(packed_rows(), min_size=1, max_size=7), st.integers(1, 8))
def test_rows_come_back_from_any_number_of_shards(
    tmp_path_factory: pytest.TempPathFactory, rows: list[PackedRow], rows_per_shard: int
) -> None:
    dataset = PackedDataset(write(tmp_path_factory.mktemp("p"), rows, rows_per_shard))
    assert dataset.num_rows == len(rows)
    assert (dataset.seq_len, dataset.vocab_size, dataset.tokenizer) == (SEQ_LEN, 100, "abc")
    for at, row in enumerate(rows):
        back = dataset.row(at)
        assert back.input_ids.tolist() == row.input_ids.tolist()
        assert back.segment_lengths.tolist() == row.segment_lengths.tolist()
        assert back.segment_document_ids.tolist() == row.segment_document_ids.tolist()
        if row.loss_mask is not None:
            assert back.loss_mask is not None
            assert back.loss_mask.tolist() == row.loss_mask.tolist()
        elif back.loss_mask is not None:
            assert back.loss_mask.all()


def test_a_directory_without_shards_and_one_that_is_absent_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="llm pack"):
            PackedDataset(path)


def test_a_shard_cut_short_is_refused(tmp_path: Path) -> None:
    shard = write(tmp_path / "p", [plain_row()]) / "train-00000.safetensors"
    whole = shard.read_bytes()
    for length in (0, 4, 20, len(whole) - 1):
        shard.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"train-00000"):
            PackedDataset(tmp_path / "p")


def test_shards_that_disagree_are_refused_naming_both(tmp_path: Path) -> None:
    directory = write(tmp_path / "p", [plain_row()])
    row = PackedRow(
        input_ids=np.zeros(3, np.uint16),
        segment_lengths=np.array([3], np.int32),
        segment_document_ids=np.array([1], np.uint64),
    )
    other = tmp_path / "q"
    other.mkdir()
    writer = PackedWriter(other, seq_len=2, vocabulary=VOCABULARY)
    writer.add(row)
    writer.close()
    (other / "train-00000.safetensors").rename(directory / "train-00001.safetensors")
    with pytest.raises(InputError, match=r"00001.*seq_len 2.*00000.* 7"):
        PackedDataset(directory)


GOOD = {
    "input_ids": np.arange(8, dtype=np.uint16).reshape(1, 8),
    "segments": np.array([3, 5], np.int32),
    "segment_offsets": np.array([0, 2], np.int64),
    "segment_document_ids": np.array([1, 2], np.uint64),
}
METADATA = {"format": "llmtools/packed@1", "seq_len": "7", **VOCABULARY.as_metadata()}


@pytest.mark.parametrize(
    ("changes", "metadata", "mention"),
    [
        ({}, {"format": "llmtools/tokens@1"}, "not a packed shard"),
        ({}, {"seq_len": "8"}, "seq_len"),
        ({}, {"vocab_size": "7"}, "token id 7"),
        ({"segments": np.array([3, 6], np.int32)}, {}, "add up"),
        ({"segments": np.array([9, -1], np.int32)}, {}, "add up"),
        ({"segments": np.array([3], np.int32)}, {}, "differ in length"),
        ({"segment_offsets": np.array([0, 9], np.int64)}, {}, "rise from 0"),
        ({"segment_offsets": np.array([0], np.int64)}, {}, "pieces need"),
        ({"loss_mask": np.ones((1, 7), np.uint8)}, {}, "differ in shape"),
        ({"input_ids": np.zeros((1, 8), np.float32)}, {}, "F32"),
    ],
)
def test_a_malformed_shard_is_refused(
    tmp_path: Path, changes: dict[str, np.ndarray], metadata: dict[str, str], mention: str
) -> None:
    blob = b"".join(tensor_header.dump(GOOD | changes, METADATA | metadata))
    (tmp_path / "train-00000.safetensors").write_bytes(blob)
    with pytest.raises(InputError, match=mention):
        PackedDataset(tmp_path).row(0)


def test_the_unbroken_twin_of_the_malformed_shards_is_read(tmp_path: Path) -> None:
    blob = b"".join(tensor_header.dump(GOOD, METADATA))
    (tmp_path / "train-00000.safetensors").write_bytes(blob)
    row = PackedDataset(tmp_path).row(0)
    assert row.input_ids.tolist() == list(range(8)) and row.loss_mask is None
