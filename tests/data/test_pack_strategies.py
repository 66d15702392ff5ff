"""Every strategy: kept and cropped tokens are the input, and no segment spans two documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.test_pack_rows import Documents, write_frames
from llmtools.data import pack_rows
from llmtools.data.pack import PackSettings, check_settings, pack
from llmtools.errors import InputError, UsageError
from llmtools.formats.packed import PADDING_DOCUMENT_ID, PackedDataset
from llmtools.formats.tokens import Vocabulary
from llmtools.ops.loss import IGNORE
from llmtools.train.data import ShardRows

BOS = 7
WITH_BOS = Vocabulary(tokenizer="abc", vocab_size=1 << 20, bos=BOS, eos=999)
Strategy = Literal["concat", "best-fit", "bos-bestfit"]
Long = Literal["fragment", "truncate"]
CASES: list[tuple[Strategy, Long]] = [
    ("concat", "fragment"),
    ("best-fit", "fragment"),
    ("best-fit", "truncate"),
    ("bos-bestfit", "fragment"),
]


def documents_of(lengths: list[int], masked: set[int]) -> Documents:
    """Documents 1, 2, ... whose tokens say whose and which they are: 1000 * document + place."""
    return [
        (
            at + 1,
            [BOS, *range(1000 * (at + 1) + 1, 1000 * (at + 1) + length)][:length],
            [place % 2 for place in range(length)] if at in masked else None,
        )
        for at, length in enumerate(lengths)
    ]


def segments_of(directory: Path) -> list[list[tuple[int, list[int], list[int]]]]:
    """For each row (document id, tokens, loss mask) of its segments, padding among them."""
    dataset = PackedDataset(directory)
    rows = []
    for index in range(dataset.num_rows):
        row = dataset.row(index)
        cuts = np.cumsum(row.segment_lengths)[:-1]
        mask = np.ones(len(row.input_ids), np.uint8) if row.loss_mask is None else row.loss_mask
        parts = zip(np.split(row.input_ids, cuts), np.split(mask, cuts), strict=True)
        rows.append(
            [
                (owner, ids.tolist(), own.tolist())
                for owner, (ids, own) in zip(row.segment_document_ids.tolist(), parts, strict=True)
            ]
        )
    return rows


@pytest.fixture(autouse=True, scope="module")
def few_at_a_time() -> Iterator[None]:
    """Documents end to end are laid out a few at a time, as those of a large input are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_rows, "LEAST_TOKENS", 1)
        yield


lists_of_lengths = st.lists(st.integers(0, 40), min_size=1, max_size=30)


@pytest.mark.parametrize(("strategy", "long_docs"), CASES)
@given(data=st.data())
@settings(max_examples=60)
def test_kept_and_cropped_are_the_input(
    tmp_path_factory: pytest.TempPathFactory,
    strategy: Strategy,
    long_docs: Long,
    data: st.DataObject,
) -> None:
    lengths = data.draw(lists_of_lengths)
    lengths.append(1)
    seq_len = data.draw(st.integers(1, 24))
    masked = data.draw(st.sets(st.integers(0, 30), max_size=3))
    documents = documents_of(lengths, masked)
    at = data.draw(st.integers(0, len(documents)))
    folder = tmp_path_factory.mktemp("p")
    source = write_frames(folder / "f", [documents[:at], documents[at:]], WITH_BOS)
    settings = PackSettings(
        seq_len=seq_len,
        strategy=strategy,
        long_docs=long_docs,
        buffer=data.draw(st.integers(seq_len + 1, 200)),
    )
    totals = pack([str(source)], str(folder / "out"), settings)

    whole = {owner: (ids, mask or [1] * len(ids)) for owner, ids, mask in documents}
    parts: dict[int, list[tuple[list[int], list[int]]]] = {owner: [] for owner in whole}
    padding = 0
    rows = segments_of(folder / "out")
    for row in rows:
        assert all(owner != PADDING_DOCUMENT_ID for owner, _, _ in row[:-1])
        owner, ids, mask = row[-1]
        if owner == PADDING_DOCUMENT_ID:
            assert ids == [999] * len(ids)
            assert not any(mask)
            padding += len(ids)
            del row[-1]
        for owner, ids, mask in row:
            parts[owner].append((ids, mask))
        if strategy == "bos-bestfit":
            assert row[0][1][0] == BOS
            assert all(ids[0] == BOS for _, ids, _ in row)
    kept = cuts = 0
    for owner, (ids, mask) in whole.items():
        # Parts of one document may stand in any rows; the place of their tokens orders them.
        own = sorted(parts[owner], key=lambda part: part[0][0] % 1000 if part[0][0] != BOS else 0)
        found = [token for part, _ in own for token in part]
        assert found == ids[: len(found)]
        assert [value for _, part in own for value in part] == mask[: len(found)]
        kept += len(found)
        if strategy == "concat" or (strategy, long_docs) == ("best-fit", "fragment"):
            assert found == ids
            cuts += max(0, len(own) - 1)
        else:
            assert len(own) == bool(ids)
            cuts += len(found) < len(ids)
        if strategy == "best-fit":
            assert len(found) == (
                len(ids) if long_docs == "fragment" else min(len(ids), seq_len + 1)
            )
    assert totals["tokens"] == sum(lengths) == kept + totals["cropped"]
    assert totals["padding"] == padding
    assert totals["rows"] == len(rows)
    assert totals["cuts"] == cuts
    assert kept + padding == totals["rows"] * (seq_len + 1)
    assert totals["utilisation"] == kept / (kept + padding)


@pytest.mark.parametrize(("strategy", "long_docs"), CASES)
@given(lengths=lists_of_lengths, cuts=st.sets(st.integers(0, 30), max_size=6))
@settings(max_examples=25)
def test_rows_do_not_depend_on_the_division_into_frames(
    tmp_path_factory: pytest.TempPathFactory,
    strategy: Strategy,
    long_docs: Long,
    lengths: list[int],
    cuts: set[int],
) -> None:
    documents = documents_of([*lengths, 3], {2})
    bounds = [0, *sorted(at for at in cuts if at < len(documents)), len(documents)]
    folder = tmp_path_factory.mktemp("p")
    divided = [documents[a:b] for a, b in pairwise(bounds)]
    packed = []
    for name, frames in (("one", [documents]), ("many", divided)):
        source = write_frames(folder / name, frames, WITH_BOS)
        settings = PackSettings(seq_len=15, strategy=strategy, long_docs=long_docs, buffer=16)
        pack([str(source)], str(folder / f"{name}.out"), settings)
        packed.append(segments_of(folder / f"{name}.out"))
    assert packed[0] == packed[1]


def rows_by_hand(lengths: list[int], width: int) -> int:
    """How many rows best-fit decreasing takes, written as its definition."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - length)
        else:
            rooms.append(width - length)
    return len(rooms)


@given(st.lists(st.integers(1, 33), min_size=1, max_size=60))
def test_best_fit_takes_as_many_rows_as_its_definition(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("p")
    source = write_frames(folder / "f", [documents_of(lengths, set())], WITH_BOS)
    settings = PackSettings(seq_len=32, strategy="best-fit", buffer=10_000)
    totals = pack([str(source)], str(folder / "out"), settings)
    assert totals["rows"] == rows_by_hand(lengths, 33)
    assert totals["cuts"] == totals["cropped"] == 0


def bos_rows_by_hand(lengths: list[int], width: int, hold: int) -> list[list[tuple[int, int]]]:
    """nanochat's loop: (document, tokens kept) of each row, written as its definition."""
    coming = [(at, min(length, width)) for at, length in enumerate(lengths)]
    held: list[tuple[int, int]] = []
    rows: list[list[tuple[int, int]]] = []
    while coming or held:
        room, row = width, []
        while room:
            while coming and sum(length for _, length in held) < hold:
                held.append(coming.pop(0))
            if not held:
                break
            fitting = [one for one in held if one[1] <= room]
            chosen = max(fitting, key=lambda one: one[1]) if fitting else None
            chosen = chosen or min(held, key=lambda one: one[1])
            held.remove(chosen)
            row.append((chosen[0], min(chosen[1], room)))
            room -= row[-1][1]
        rows.append(row)
    return rows


@given(st.lists(st.integers(1, 30), min_size=1, max_size=80), st.integers(17, 120))
def test_bos_bestfit_makes_the_rows_of_its_definition(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], buffer: int
) -> None:
    folder = tmp_path_factory.mktemp("p")
    source = write_frames(folder / "f", [[one] for one in documents_of(lengths, set())], WITH_BOS)
    settings = PackSettings(seq_len=16, strategy="bos-bestfit", buffer=buffer)
    pack([str(source)], str(folder / "out"), settings)
    found = [
        [(owner - 1, len(ids)) for owner, ids, _ in row if owner != PADDING_DOCUMENT_ID]
        for row in segments_of(folder / "out")
    ]
    assert found == bos_rows_by_hand(lengths, 17, buffer)


@pytest.mark.parametrize(("strategy", "long_docs"), CASES)
def test_no_label_crosses_a_document_and_padding_has_none(
    tmp_path: Path, strategy: Strategy, long_docs: Long
) -> None:
    chance = np.random.default_rng(3)
    lengths = chance.integers(1, 50, 60).tolist()
    documents = documents_of(lengths, {4, 5})
    source = write_frames(tmp_path / "f", [documents], WITH_BOS)
    settings = PackSettings(seq_len=31, strategy=strategy, long_docs=long_docs, buffer=300)
    pack([str(source)], str(tmp_path / "out"), settings)
    rows = ShardRows(PackedDataset(tmp_path / "out"))
    follows = {
        (owner, before, after) for owner, ids, _ in documents for before, after in pairwise(ids)
    }
    labels: Counter[str] = Counter()
    for index in range(rows.num_rows):
        stored, row = rows.dataset.row(index), rows.row(index)
        owners = np.repeat(stored.segment_document_ids, stored.segment_lengths)[:-1].tolist()
        assert sum(row.lengths) == len(row.input_ids) == 31
        given = zip(owners, row.input_ids.tolist(), row.labels.tolist(), strict=True)
        for owner, token, label in given:
            if owner == PADDING_DOCUMENT_ID:
                assert label == IGNORE
            elif label != IGNORE:
                assert (owner, token, label) in follows
                labels["masked" if owner in (5, 6) else "plain"] += 1
    assert labels["plain"] > 500
    assert 0 < labels["masked"] < sum(lengths[4:6])


def test_a_document_without_the_bos_that_its_frame_announces_is_refused(tmp_path: Path) -> None:
    source = write_frames(tmp_path / "f", [[(1, [BOS, 5], None), (2, [5, 6], None)]], WITH_BOS)
    settings = PackSettings(seq_len=8, strategy="bos-bestfit")
    with pytest.raises(InputError, match="begins with token 5, not with BOS"):
        pack([str(source)], str(tmp_path / "out"), settings)
    without = write_frames(tmp_path / "g", [[(1, [5], None)]])
    with pytest.raises(UsageError, match="tokenize them with --bos"):
        pack([str(without)], str(tmp_path / "out"), settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (PackSettings(seq_len=0), "--seq-len 0"),
        (PackSettings(seq_len=1 << 40), "--seq-len 1099511627776"),
        (PackSettings(seq_len=8, strategy="best-fit", buffer=0), "--buffer 0"),
        (PackSettings(seq_len=100, strategy="bos-bestfit", buffer=100), "must hold a row.* 101"),
    ],
)
def test_rows_and_buffers_that_cannot_be_are_refused(wrong: PackSettings, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_settings(wrong)
