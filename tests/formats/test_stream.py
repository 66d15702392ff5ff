"""Compression by magic, truncation, atomic outputs."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import subprocess
import sys

import pytest
import zstandard

from llmtools.errors import InputError, ResourceError, UsageError
from llmtools.formats import input_names, output, stream

DATA = b"".join(b'{"id":"%d","text":"some words"}\n' % i for i in range(5000))
PACKERS = {
    "plain": lambda d: d,
    "gzip": gzip.compress,
    "gzip members": lambda d: gzip.compress(d[:1000]) + gzip.compress(d[1000:]),
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "zstd frames": lambda d: b"".join(
        zstandard.ZstdCompressor().compress(p) for p in (d[:1000], b"", d[1000:])
    ),
}


@pytest.mark.parametrize("kind", PACKERS)
def test_input_is_decompressed_by_magic_whatever_the_suffix(kind, tmp_path):
    path = tmp_path / "data.anything"
    stored = PACKERS[kind](DATA)
    path.write_bytes(stored)
    with stream.open_input(str(path)) as source:
        assert source.read() == DATA
        assert source.num_bytes == len(stored)


def test_an_empty_file_is_an_empty_stream(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    with stream.open_input(str(tmp_path / "empty")) as source:
        assert source.read() == b""


@pytest.mark.parametrize("kind", ["gzip", "gzip members", "bzip2", "zstd", "zstd frames"])
@pytest.mark.parametrize("cut", [1, 7, 200])
def test_a_compressed_file_cut_short_is_an_error_that_names_it(kind, cut, tmp_path):
    path = tmp_path / "cut"
    path.write_bytes(PACKERS[kind](DATA)[:-cut])
    with stream.open_input(str(path)) as source, pytest.raises(InputError, match="cut"):
        source.read()


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "zstd"])
def test_a_damaged_compressed_file_is_an_error(kind, tmp_path):
    if kind == "zstd":
        stored = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(DATA))
    else:
        stored = bytearray(PACKERS[kind](DATA))
    stored[len(stored) // 2] ^= 0xFF
    path = tmp_path / "damaged"
    path.write_bytes(stored)
    with stream.open_input(str(path)) as source, pytest.raises(InputError, match="damaged"):
        source.read()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".jsonl.bz2"])
def test_output_round_trips_and_its_digest_is_that_of_the_stored_bytes(suffix, tmp_path):
    path = tmp_path / f"out{suffix}"
    with output.open_output(str(path)) as sink:
        for line in DATA.splitlines(keepends=True):
            sink.write(line)
    with stream.open_input(str(path)) as source:
        assert source.read() == DATA
        assert (source.digest, source.num_bytes) == (sink.digest, sink.num_bytes)
    assert path.stat().st_size == sink.num_bytes


def test_equal_data_gives_equal_bytes(tmp_path):
    for suffix in (".gz", ".zst", ".bz2"):
        for name in ("a", "b"):
            with output.open_output(str(tmp_path / (name + suffix))) as sink:
                sink.write(DATA)
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_an_output_that_fails_leaves_nothing_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), output.open_output(str(path), force=True) as sink:
        sink.write(DATA * 100)
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def test_an_existing_output_is_refused_without_force(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(UsageError, match="-f"), output.open_output(str(path)):
        pass
    folder = tmp_path / "folder"
    folder.mkdir()
    with output.atomic_directory(str(folder)) as building:
        (building / "x").write_bytes(b"1")
    assert (folder / "x").read_bytes() == b"1"
    with pytest.raises(UsageError, match="-f"), output.atomic_directory(str(folder)):
        pass


def test_a_directory_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with output.atomic_directory(str(target)) as building:
        (building / "old").write_bytes(b"1")
    with (
        pytest.raises(ZeroDivisionError),
        output.atomic_directory(str(target), force=True) as building,
    ):
        (building / "new").write_bytes(b"2")
        raise ZeroDivisionError
    assert os.listdir(target) == ["old"]
    with output.atomic_directory(str(target), force=True) as building:
        (building / "new").write_bytes(b"2")
    assert os.listdir(target) == ["new"]
    assert os.listdir(tmp_path) == ["model"]


def test_leftovers_of_a_killed_run_are_removed_by_the_next(tmp_path):
    code = (
        "import os, signal, sys\nfrom llmtools.formats import output\n"
        "with output.open_output(sys.argv[1]) as sink:\n"
        "    sink.write(b'x' * 10_000_000)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = tmp_path / "out"
    subprocess.run([sys.executable, "-c", code, str(target)])
    assert len(os.listdir(tmp_path)) == 1 and not target.exists()
    with output.open_output(str(target)) as sink:
        sink.write(b"whole")
    assert os.listdir(tmp_path) == ["out"]


def test_a_full_disk_is_a_resource_error_that_names_the_output():
    with pytest.raises(ResourceError, match=r"/dev/full: cannot write"):
        with output.output_faults("/dev/full"), open("/dev/full", "wb") as full:
            full.write(b"x")
            full.flush()


@pytest.mark.parametrize("force", [False, True])
def test_a_device_or_named_pipe_is_written_to_and_never_replaced(force, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Opened for both, so that neither end waits for the other.
    reader = os.open(pipe, os.O_RDWR)
    with output.open_output(str(pipe), force=force) as sink:
        sink.write(b"some bytes")
    assert os.read(reader, 100) == b"some bytes"
    os.close(reader)
    assert pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]
    with pytest.raises(UsageError, match="device"), output.atomic_directory(str(pipe), force=force):
        pass
    assert pipe.is_fifo()


def test_a_parent_that_is_a_file_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match="file"):
        output.check_output(str(tmp_path / "file" / "out"), force=False)


def test_inputs_expand_in_a_fixed_order_without_manifests(tmp_path):
    for name in ("b.jsonl", "a.jsonl.zst", "a.jsonl.zst.manifest.json", ".hidden.jsonl", "c.png"):
        (tmp_path / name).write_bytes(b"")
    found = input_names.expand_inputs([str(tmp_path)])
    assert [os.path.basename(p) for p in found] == ["a.jsonl.zst", "b.jsonl"]
    assert input_names.expand_inputs([f"{tmp_path}/*.jsonl", "-"]) == [f"{tmp_path}/b.jsonl", "-"]
    with pytest.raises(InputError, match="no such file"):
        input_names.expand_inputs([f"{tmp_path}/absent.jsonl"])
    with pytest.raises(UsageError, match="stdin"):
        input_names.expand_inputs(["-", "-"])


def test_a_sink_that_takes_a_part_at_a_time_gets_everything():
    class Sparing(io.RawIOBase):
        """A raw file, as stdout is under PYTHONUNBUFFERED, on a disk that is nearly full."""

        taken = b""

        def write(self, data):
            self.taken += bytes(data[:1000])
            return min(len(data), 1000)

    sink = Sparing()
    out = output.OutputStream("<stdout>", sink, "")
    out.write(DATA)
    out.flush()
    assert sink.taken == DATA
