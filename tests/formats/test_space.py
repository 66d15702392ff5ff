"""Sizes of compressed data from frame headers, and outputs that would not fit on their disk."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import pytest
import zstandard

from in_process import run_here
from llmtools.errors import InputError, ResourceError
from llmtools.formats import space
from llmtools.formats.content_size import content_size
from tiny_chat import save_base, write_chats
from tiny_packed import write_config, write_packed

TEXT = b"some text that repeats and repeats " * 5000


def frame(data: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(level=3, **options).compress(data)


def test_frames_state_their_size(tmp_path: Path) -> None:
    path = tmp_path / "a.zst"
    skippable = (0x184D2A51).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    # A constant run is stored as one byte and a count.
    parts = [frame(TEXT), skippable, frame(b"\0" * 300_000, write_checksum=True), frame(b"")]
    path.write_bytes(b"".join(parts))
    assert content_size(str(path)) == (len(TEXT) + 300_000, True)


def test_a_frame_that_is_silent_or_cut_gives_a_ratio(tmp_path: Path) -> None:
    path = tmp_path / "a.zst"
    for stored in (frame(TEXT, write_content_size=False), frame(TEXT)[:-1], frame(TEXT) + b"odd"):
        path.write_bytes(stored)
        assert content_size(str(path)) == (round(len(stored) * 3.2), False)


def test_other_compression_has_a_ratio_and_plain_files_their_size(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for stored, ratio in ((gzip.compress(TEXT), 2.9), (bz2.compress(TEXT), 3.6)):
        path.write_bytes(stored)
        assert content_size(str(path)) == (round(len(stored) * ratio), False)
    path.write_bytes(TEXT)
    assert content_size(str(path)) == (len(TEXT), True)
    with pytest.raises(InputError, match="No such file"):
        content_size(str(tmp_path / "none"))


def test_an_output_that_does_not_fit_is_refused_with_both_numbers(tmp_path: Path) -> None:
    free = space.free_bytes(tmp_path / "not" / "there")
    assert free > 0
    with pytest.raises(ResourceError, match=f"{free * 2:,} bytes would be written"):
        space.check_space(tmp_path / "out", free * 2)
    space.check_space("-", free * 2)
    space.check_space("/dev/null", free * 2)


@pytest.mark.parametrize("command", ["quantize", "pretrain", "finetune"])
@pytest.mark.parametrize("extra", [(), ("--dry-run",)])
def test_a_full_disk_is_seen_before_the_work(command, extra, tmp_path, monkeypatch):
    base = save_base(tmp_path / "base")
    rows = write_packed(tmp_path / "rows")
    config = write_config(tmp_path / "config.json")
    out = tmp_path / "out"
    line = {
        "quantize": ["quantize", base],
        "pretrain": ["pretrain", rows, "--model-config", config, "--max-steps", "2"],
        "finetune": ["finetune", base, write_chats(tmp_path / "chat.jsonl"), "--max-steps", "2"],
    }[command]
    monkeypatch.setattr(space, "free_bytes", lambda path: 1234)
    done = run_here(*line, "-o", out, *extra)
    assert done.returncode == 4, done.stderr
    assert b"1,234 free" in done.stderr and b"bytes would be written" in done.stderr
    assert not out.exists()
    assert done.stdout == b""
