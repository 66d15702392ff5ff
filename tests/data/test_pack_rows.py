"""Packing keeps every token once, and rows can be traced to their documents."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtools.data.encode import EncodeSettings, tokenize
from llmtools.data.pack import PackSettings, pack
from llmtools.errors import InputError, UsageError
from llmtools.formats.manifest import read_manifest
from llmtools.formats.output import open_output
from llmtools.formats.packed import PADDING_DOCUMENT_ID, PackedDataset
from llmtools.formats.record import document_hash
from llmtools.formats.tokens import FrameBuilder, Vocabulary, write_frame
from toy_tokenizer import ADVERSARIAL, toy_tokenizer

Documents = list[tuple[int, list[int], list[int] | None]]

VOCABULARY = Vocabulary(tokenizer="abc", vocab_size=1000, eos=999)


def write_frames(path: Path, frames: list[Documents], vocabulary: Vocabulary = VOCABULARY) -> Path:
    with open_output(str(path)) as out:
        for documents in frames:
            builder = FrameBuilder(vocabulary)
            for document_id, ids, mask in documents:
                array = None if mask is None else np.array(mask, np.uint8)
                builder.add(document_id, np.array(ids, np.uint32), array)
            write_frame(out, builder.take())
    return path


def unpack(directory: Path) -> tuple[list[tuple[int, int, int]], int]:
    """(document id, token, mask) of every token in order, and the number of padding tokens."""
    dataset = PackedDataset(directory)
    tokens: list[tuple[int, int, int]] = []
    padding = 0
    for index in range(dataset.num_rows):
        row = dataset.row(index)
        assert len(row.input_ids) == int(row.segment_lengths.sum()) == dataset.seq_len + 1
        assert (row.segment_lengths > 0).all()
        owners = np.repeat(row.segment_document_ids, row.segment_lengths).tolist()
        mask = [1] * len(owners) if row.loss_mask is None else row.loss_mask.tolist()
        if index == dataset.num_rows - 1 and owners[-1] == PADDING_DOCUMENT_ID:
            padding = int(row.segment_lengths[-1])
            assert not any(mask[-padding:])
            owners = owners[:-padding]
        tokens += zip(owners, row.input_ids.tolist(), mask, strict=False)
    return tokens, padding


# A document's id is a 64-bit hash; 0 is what padding is called.
documents_lists = st.lists(
    st.integers(1, 2**64 - 1).flatmap(
        lambda name: st.lists(st.integers(0, 998), max_size=30).flatmap(
            lambda ids: st.tuples(
                st.just(name),
                st.just(ids),
                st.none() | st.lists(st.integers(0, 1), min_size=len(ids), max_size=len(ids)),
            )
        )
    ),
    max_size=6,
)


@given(st.lists(documents_lists, min_size=1, max_size=3), st.integers(1, 40))
def test_every_token_is_in_exactly_one_row_with_its_document_and_mask(
    tmp_path_factory: pytest.TempPathFactory, frames: list[Documents], seq_len: int
) -> None:
    folder = tmp_path_factory.mktemp("pack")
    source = write_frames(folder / "frames", frames)
    expected = [
        (document_id, token, 1 if mask is None else mask[at])
        for documents in frames
        for document_id, ids, mask in documents
        for at, token in enumerate(ids)
    ]
    out = str(folder / "out")
    if not expected:
        with pytest.raises(InputError, match="no tokens"):
            pack([str(source)], out, PackSettings(seq_len=seq_len))
        assert not Path(out).exists()
        return
    totals = pack([str(source)], out, PackSettings(seq_len=seq_len))
    tokens, padding = unpack(Path(out))
    assert tokens == expected
    assert totals["padding"] == padding <= seq_len
    assert totals["tokens"] == len(expected)
    assert totals["rows"] * (seq_len + 1) == len(expected) + padding
    assert totals["documents"] == sum(map(len, frames))


def test_the_parts_of_a_cut_document_keep_its_id(tmp_path: Path) -> None:
    source = write_frames(tmp_path / "f", [[(7, list(range(10)), None), (8, [1], None)]])
    pack([str(source)], str(tmp_path / "out"), PackSettings(seq_len=3))
    dataset = PackedDataset(tmp_path / "out")
    rows = [dataset.row(at) for at in range(3)]
    assert [row.segment_document_ids.tolist() for row in rows] == [[7], [7], [7, 8, 0]]
    assert [row.segment_lengths.tolist() for row in rows] == [[4], [4], [2, 1, 1]]
    assert rows[2].input_ids.tolist() == [8, 9, 1, 999]
    assert rows[2].loss_mask is not None and rows[2].loss_mask.tolist() == [1, 1, 1, 0]


def write_documents(path: Path, texts: list[str]) -> Path:
    lines = (json.dumps({"id": f"d{at}", "text": text}) for at, text in enumerate(texts))
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_documents_and_their_frames_pack_to_the_same_bytes(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer()
    source = write_documents(tmp_path / "d.jsonl", ADVERSARIAL)
    frames = tmp_path / "frames"
    counts = tokenize([str(source)], str(frames), tokenizer, EncodeSettings())
    settings = PackSettings(seq_len=64)
    direct = pack([str(source)], str(tmp_path / "a"), settings, tokenizer=tokenizer)
    [file] = frames.glob("*.safetensors")
    from_frames = pack([str(file)], str(tmp_path / "b"), settings)
    assert direct == from_frames
    assert direct["tokens"] == counts["tokens"]
    name = "train-00000.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    tokens, _ = unpack(tmp_path / "a")
    by_document = [
        (k, [token for _, token, _ in group]) for k, group in groupby(tokens, lambda t: t[0])
    ]
    assert by_document == [
        (document_hash(f"d{at}"), [*tokenizer.encode(text), tokenizer.eos_id])
        for at, text in enumerate(ADVERSARIAL)
    ]
    manifest = read_manifest(tmp_path / "a")
    assert manifest is not None and manifest["counts"]["tokenizer"] == tokenizer.identity


def test_documents_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "d.jsonl", ["text"])
    with pytest.raises(UsageError, match=r"d\.jsonl holds documents.*-t"):
        pack([str(source)], str(tmp_path / "out"), PackSettings(seq_len=8))
    assert not (tmp_path / "out").exists()


def test_inputs_of_two_tokenizers_are_refused_naming_both(tmp_path: Path) -> None:
    first = write_frames(tmp_path / "a", [[(1, [5], None)]])
    other = Vocabulary(tokenizer="other", vocab_size=10)
    second = write_frames(tmp_path / "b", [[(1, [5], None)]], other)
    settings = PackSettings(seq_len=8)
    with pytest.raises(InputError, match=r"/b was tokenized by other .*/a by abc"):
        pack([str(first), str(second)], str(tmp_path / "out"), settings)
    with pytest.raises(InputError, match=toy_tokenizer().identity):
        pack([str(first)], str(tmp_path / "out"), settings, tokenizer=toy_tokenizer())
    assert not (tmp_path / "out").exists()
