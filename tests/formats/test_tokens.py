"""Token frames: round trips, mixed streams and malformed frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from llmtools.errors import InputError
from llmtools.formats import tensor_header
from llmtools.formats.output import open_output
from llmtools.formats.tokens import (
    FORMAT,
    FrameBuilder,
    TokenFrame,
    Vocabulary,
    read_frames,
    write_frame,
)

VOCABULARY = Vocabulary(tokenizer="abc", vocab_size=1000, eos=7)
GOOD = {
    "tokens": np.array([1, 2, 3], np.uint16),
    "offsets": np.array([0, 2, 3], np.int64),
    "document_ids": np.array([5, 6], np.uint64),
    "loss_mask": np.array([1, 0, 1], np.uint8),
}
METADATA = {"format": FORMAT, **VOCABULARY.as_metadata()}


def write(path: Path, *frames: TokenFrame) -> Path:
    with open_output(str(path)) as out:
        for frame in frames:
            write_frame(out, frame)
    return path


def write_raw(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> Path:
    path.write_bytes(b"".join(tensor_header.dump(arrays, metadata)))
    return path


def frame_of(
    documents: list[tuple[int, list[int], list[int] | None]], vocabulary: Vocabulary = VOCABULARY
) -> TokenFrame:
    builder = FrameBuilder(vocabulary)
    for document_id, ids, mask in documents:
        builder.add(document_id, np.array(ids, np.int64), None if mask is None else np.array(mask))
    return builder.take()


def documents_in(path: Path) -> list[tuple[int, list[int], list[int] | None]]:
    return [
        (document_id, ids.tolist(), None if mask is None else mask.tolist())
        for frame in read_frames([str(path)])
        for document_id, ids, mask in frame.documents()
    ]


documents_lists = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 999)), st.none()), max_size=8
)


@given(st.lists(documents_lists, min_size=1, max_size=3))
def test_documents_come_back_from_any_frames(
    tmp_path_factory: pytest.TempPathFactory,
    frames: list[list[tuple[int, list[int], list[int] | None]]],
) -> None:
    path = write(tmp_path_factory.mktemp("t") / "f", *(frame_of(f) for f in frames))
    assert documents_in(path) == [document for frame in frames for document in frame]


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)]
)
def test_ids_take_two_bytes_where_the_vocabulary_fits(
    tmp_path: Path, vocab_size: int, dtype: type
) -> None:
    vocabulary = Vocabulary(tokenizer="abc", vocab_size=vocab_size)
    path = write(tmp_path / "f", frame_of([(1, [vocab_size - 1], None)], vocabulary))
    assert load_file(path)["tokens"].dtype == dtype
    assert documents_in(path) == [(1, [vocab_size - 1], None)]


def test_a_document_without_a_mask_counts_fully_beside_one_with(tmp_path: Path) -> None:
    path = write(tmp_path / "f", frame_of([(1, [4, 5], [0, 1]), (2, [6], None)]))
    assert documents_in(path) == [(1, [4, 5], [0, 1]), (2, [6], [1])]


def test_concatenated_files_are_a_stream_and_compression_is_recognised(tmp_path: Path) -> None:
    first = write(tmp_path / "a", frame_of([(1, [4], None)]))
    second = write(tmp_path / "b", frame_of([(2, [], None)]))
    joined = tmp_path / "c"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    packed = tmp_path / "c.zst"
    with open_output(str(packed)) as out:
        out.write(joined.read_bytes())
    assert documents_in(joined) == documents_in(packed) == [(1, [4], None), (2, [], None)]


def test_frames_of_two_tokenizers_are_refused_naming_both(tmp_path: Path) -> None:
    other = Vocabulary(tokenizer="other", vocab_size=9)
    path = write(tmp_path / "f", frame_of([(1, [4], None)]), frame_of([(1, [4], None)], other))
    with pytest.raises(InputError, match=r"other .*9 ids.*abc .*1000 ids"):
        documents_in(path)


@pytest.mark.parametrize(
    ("changes", "metadata", "mention"),
    [
        ({}, {"format": "other"}, "not token frames"),
        ({}, {"tokenizer": ""}, "names no tokenizer"),
        ({}, {"vocab_size": "-3"}, "not a count"),
        ({}, {"vocab_size": "0"}, "vocab_size"),
        ({}, {"vocab_size": "3"}, "eos is 7"),
        ({"tokens": np.array([1, 2, 1000], np.uint16)}, {}, "token id 1000"),
        ({"tokens": np.array([1, 2], np.uint16)}, {}, "loss_mask"),
        ({"tokens": np.array([1, 2, 3], np.int32)}, {}, "I32"),
        ({"tokens": np.array([[1, 2, 3]], np.uint16)}, {}, "dimensions"),
        ({"offsets": np.array([0, 3], np.int64)}, {}, "2 pieces need 3"),
        ({"offsets": np.array([0, 4, 3], np.int64)}, {}, "rise from 0 to 3"),
        ({"offsets": np.array([1, 2, 3], np.int64)}, {}, "rise from 0 to 3"),
        ({"loss_mask": np.array([1, 2, 1], np.uint8)}, {}, "loss_mask holds 2"),
    ],
)
def test_a_malformed_frame_is_refused(
    tmp_path: Path, changes: dict[str, np.ndarray], metadata: dict[str, str], mention: str
) -> None:
    path = write_raw(tmp_path / "f", GOOD | changes, METADATA | metadata)
    with pytest.raises(InputError, match=mention):
        documents_in(path)


def test_the_unbroken_twin_of_the_malformed_frames_is_read(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "f", GOOD, METADATA)
    assert documents_in(path) == [(5, [1, 2], [1, 0]), (6, [3], [1])]


def test_a_truncated_or_empty_stream_is_refused_naming_the_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "f", frame_of([(1, [4], None)]), frame_of([(2, [5, 6], None)]))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="frame 1: truncated"):
        documents_in(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        documents_in(path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "f", {"tokens": GOOD["tokens"]}, METADATA)
    with pytest.raises(InputError, match="no tensor 'offsets'"):
        documents_in(path)
