"""Input files cut into units."""

from __future__ import annotations

import gzip
import random

import pytest
import zstandard

from llmtools.shards.split import scan, shares
from llmtools.shards.unit import Piece, Pieces


def lines(count: int, seed: int = 1) -> list[bytes]:
    source = random.Random(seed)
    return [b'{"text": "%s"}\n' % (b"x" * source.randrange(200)) for _ in range(count)]


def pieces_of(path, shard_bytes):
    found = list(shares([scan(str(path), shard_bytes)], shard_bytes))
    return [(share.piece, share.first_line) for share in found if share.piece is not None]


def read(piece: Piece) -> bytes:
    with Pieces([piece]) as source:
        return source.readall()


@pytest.mark.parametrize("end", [b"", b'{"text": "no line end"}', b"\n\n"])
@pytest.mark.parametrize("shard_bytes", [1, 100, 1000, 4096, 1 << 20])
def test_plain_lines_are_cut_at_line_ends_and_nothing_is_lost(tmp_path, shard_bytes, end):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(lines(500)) + end)
    found = pieces_of(path, shard_bytes)
    if shard_bytes == 1 << 20:
        assert found == []
        return
    assert len(found) > 5
    parts = [read(piece) for piece, _ in found]
    assert b"".join(parts) == path.read_bytes()
    assert all(part.endswith(b"\n") for part in parts[:-1])
    line = 1
    for part, (_, first_line) in zip(parts, found, strict=True):
        assert first_line == line
        line += part.count(b"\n")


def test_lines_longer_than_a_read_are_cut_only_at_their_ends(tmp_path):
    path = tmp_path / "a.jsonl"
    long = b'{"text": "%s"}\n' % (b"y" * (3 << 20))
    path.write_bytes(long + b'{"text": ""}\n' + long)
    parts = [read(piece) for piece, _ in pieces_of(path, 1 << 20)]
    assert parts == [long, b'{"text": ""}\n' + long]


def test_zstd_frames_are_cut_only_where_a_line_ends(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    text = lines(400)
    blocks = [b"".join(text[at : at + 10]) for at in range(0, 400, 10)]
    # One frame ends in the middle of a line.
    blocks[4], blocks[5] = blocks[4] + blocks[5][:7], blocks[5][7:]
    path.write_bytes(b"".join(zstandard.compress(block) for block in blocks))
    found = pieces_of(path, 1)
    assert len(found) == 39
    parts = [zstandard_read(read(piece)) for piece, _ in found]
    assert b"".join(parts) == b"".join(text)
    assert all(part.endswith(b"\n") for part in parts)
    assert [line for _, line in found] == [1 + 10 * n for n in range(40) if n != 5]


def zstandard_read(data: bytes) -> bytes:
    reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
    return reader.read()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl.gz", gzip.compress(b"".join(lines(100)))),
        ("a.jsonl.zst", zstandard.compress(b"".join(lines(100)))),
        ("a.json", b'[{"text": "a"},\n{"text": "b"}]\n'),
        ("a.txt", b"one\ntwo\nthree\n"),
        ("a.jsonl.zst", zstandard.compress(b'{"text": ""}\n')[:-3]),
        ("a.jsonl.zst", zstandard.compress(b'{"text": ""}\n') * 3 + b"noise"),
        ("a.jsonl", b""),
    ],
)
def test_what_cannot_be_entered_in_the_middle_is_one_unit(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    assert [share.files for share in shares([scan(str(path), 1)], 1)] == [(str(path),)]


def test_small_files_go_together_and_order_is_kept(tmp_path):
    for number, count in enumerate([1, 1, 300, 1, 1]):
        (tmp_path / f"{number}.jsonl").write_bytes(b"".join(lines(count)))
    paths = [str(tmp_path / f"{number}.jsonl") for number in range(5)]
    found = list(shares([scan(path, 4000) for path in paths], 4000))
    assert found[0].files == tuple(paths[:2])
    assert found[-1].files == tuple(paths[3:])
    assert {share.piece.path for share in found[1:-1]} == {paths[2]}


def test_a_file_that_shrank_is_not_read_as_shorter(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1234")
    with Pieces([Piece(path=str(path), start=2, end=8)]) as source:
        assert source.read(2) == b"34"
        with pytest.raises(OSError, match="has changed"):
            source.read(2)
