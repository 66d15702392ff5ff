"""GGUF files: round trips, and every way a file can lie ends in one InputError."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from llmtools.errors import InputError, UsageError
from llmtools.formats.gguf import GGUFFile, ValueType, is_gguf
from llmtools.formats.gguf_writer import TensorSource, write_gguf

METADATA = {
    "general.architecture": "llama",
    "general.name": "ü",
    "a.int": 7,
    "a.negative": -7,
    "a.long": 2**40,
    "a.float": 0.5,
    "a.bool": True,
    "a.strings": ["x", "", "Ġy"],
    "a.ints": [1, -2],
    "a.bools": [True, False],
    "a.empty": np.zeros(0, np.float32),
}


def source(name: str, type_name: str, rows: int = 3, columns: int = 64) -> TensorSource:
    values = np.linspace(-1, 1, rows * columns, dtype=np.float32).reshape(rows, columns)
    return TensorSource(name, values.shape, type_name, lambda: values)


def small_file(path: Path) -> Path:
    write_gguf(str(path), METADATA, [source("w", "Q8_0"), source("v", "F32", 1, 5)], force=True)
    return path


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


def entry(name: bytes, dims: list[int], kind: int, offset: int) -> bytes:
    rank = len(dims)
    head = struct.pack("<Q", len(name)) + name
    return head + struct.pack(f"<I{rank}QIQ", rank, *dims, kind, offset)


def file_of(pairs: list[bytes], tensors: list[bytes], data: bytes = bytes(64)) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs + tensors)
    return head + bytes(-len(head) % 32) + data


def test_metadata_and_tensors_come_back(tmp_path: Path) -> None:
    file = GGUFFile(small_file(tmp_path / "a.gguf"))
    assert {k: v for k, v in file.metadata.items() if not isinstance(v, np.ndarray)} == {
        k: v for k, v in METADATA.items() if k not in ("a.ints", "a.bools", "a.empty")
    }
    assert file.metadata["a.ints"].tolist() == [1, -2]
    assert file.metadata["a.bools"].tolist() == [True, False]
    assert file.metadata["a.empty"].size == 0
    assert file.metadata_types["a.int"] is ValueType.UINT32
    assert file.metadata_types["a.long"] is ValueType.UINT64
    assert file.tensors["w"].shape == (3, 64)
    assert np.abs(file.load("w") - source("w", "F32").produce()).max() <= 0.5 / 127 * 1.01
    assert np.array_equal(file.load("v"), source("v", "F32", 1, 5).produce())
    assert file.raw("w").size == file.tensors["w"].num_bytes == 3 * 68


def test_writing_again_from_what_was_read_gives_the_same_bytes(tmp_path: Path) -> None:
    first = small_file(tmp_path / "a.gguf")
    file = GGUFFile(first)
    copies = [
        TensorSource(t.name, t.shape, t.type_name, lambda name=name: file.raw(name))
        for name, t in file.tensors.items()
    ]
    types = file.metadata_types
    write_gguf(str(tmp_path / "b.gguf"), file.metadata, copies, metadata_types=types)
    assert (tmp_path / "b.gguf").read_bytes() == first.read_bytes()


def test_large_tensors_cross_chunks_unharmed(tmp_path: Path) -> None:
    wide = source("wide", "Q4_0", 3, (1 << 19) + 32)
    write_gguf(str(tmp_path / "a.gguf"), {}, [wide])
    values = GGUFFile(tmp_path / "a.gguf").load("wide")
    assert np.abs(values - wide.produce()).max() <= 1 / 8 * 1.001


def test_a_file_cut_anywhere_is_an_input_error(tmp_path: Path) -> None:
    whole = small_file(tmp_path / "a.gguf").read_bytes()
    cut_path = tmp_path / "cut.gguf"
    for cut in range(0, len(whole) - 31, 3):
        cut_path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"cut\.gguf"):
            GGUFFile(cut_path)


def test_flipped_bytes_never_give_another_error(tmp_path: Path) -> None:
    whole = np.frombuffer(small_file(tmp_path / "a.gguf").read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        bytes_ = whole.copy()
        where = rng.integers(0, whole.size, rng.integers(1, 4))
        bytes_[where] = rng.integers(0, 256, where.size)
        (tmp_path / "b.gguf").write_bytes(bytes_.tobytes())
        try:
            file = GGUFFile(tmp_path / "b.gguf")
            for name in file.tensors:
                with np.errstate(all="ignore"):
                    file.load(name)
        except InputError:
            refused += 1
    assert 300 < refused < 1500


HUGE = 2**63
LIES = {
    "tensor count": b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0),
    "pair count": b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE),
    "key length": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, HUGE) + bytes(64),
    "string length": file_of([pair(b"k", 8, struct.pack("<Q", HUGE))], []),
    "array count": file_of([pair(b"k", 9, struct.pack("<IQ", 6, HUGE))], []),
    "overflowing array count": file_of([pair(b"k", 9, struct.pack("<IQ", 12, 2**61 + 1))], []),
    "string array count": file_of([pair(b"k", 9, struct.pack("<IQ", 8, 2**40))], []),
    "nested arrays": file_of([pair(b"k", 9, struct.pack("<IQ", 9, 1) * 50)], []),
    "value type": file_of([pair(b"k", 13, bytes(8))], []),
    "boolean": file_of([pair(b"k", 7, b"\2")], []),
    "text": file_of([pair(b"k", 8, struct.pack("<Q", 1) + b"\xff")], []),
    "duplicate key": file_of([pair(b"k", 0, b"\1"), pair(b"k", 0, b"\1")], []),
    "alignment": file_of([pair(b"general.alignment", 4, struct.pack("<I", 24))], []),
    "zero alignment": file_of([pair(b"general.alignment", 4, struct.pack("<I", 0))], []),
    "alignment type": file_of([pair(b"general.alignment", 7, b"\1")], []),
    "rank": file_of([], [entry(b"t", [1] * 5, 0, 0)]),
    "no rank": file_of([], [entry(b"t", [], 0, 0)]),
    "dims": file_of([], [entry(b"t", [2**62, 2**62], 0, 0)]),
    "zero dim": file_of([], [entry(b"t", [0, 4], 0, 0)]),
    "broken row": file_of([], [entry(b"t", [33], 8, 0)]),
    "tensor type": file_of([], [entry(b"t", [32], 99, 0)]),
    "offset": file_of([], [entry(b"t", [4], 0, 2**62)]),
    "offset past the end": file_of([], [entry(b"t", [4], 0, 64)]),
    "unaligned offset": file_of([], [entry(b"t", [4], 0, 8)]),
    "duplicate tensor": file_of([], [entry(b"t", [4], 0, 0), entry(b"t", [4], 0, 32)]),
    "overlap": file_of([], [entry(b"t", [16], 0, 0), entry(b"u", [4], 0, 32)]),
    "magic": b"GGML" + bytes(64),
    "version": b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
    "byte order": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "nothing": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about(lie: str, tmp_path: Path) -> None:
    path = tmp_path / "lie.gguf"
    path.write_bytes(LIES[lie])
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"lie\.gguf") as caught:
            GGUFFile(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20, f"{peak} bytes allocated"
    if "tensor" in lie:
        assert "tensor" in str(caught.value)


def test_the_lies_are_built_on_a_file_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "true.gguf"
    path.write_bytes(file_of([pair(b"k", 0, b"\1")], [entry(b"t", [4], 0, 32)]))
    assert GGUFFile(path).load("t").tolist() == [0, 0, 0, 0]


def test_a_type_without_a_decoder_is_listed_but_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "k.gguf"
    path.write_bytes(file_of([], [entry(b"t", [256], 12, 0)], bytes(144)))
    file = GGUFFile(path)
    assert file.tensors["t"].type_name == "Q4_K"
    with pytest.raises(InputError, match="Q4_K"):
        file.load("t")
    with pytest.raises(InputError, match="did you mean 't'"):
        file.load("tt")


def test_values_that_do_not_fit_leave_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for value, type_name in [(np.nan, "Q8_0"), (np.inf, "F16"), (1e6, "F16"), (1e9, "Q4_0")]:
        bad = np.full((2, 32), value, np.float32)
        tensors = [
            source("good", "F16"),
            TensorSource("bad", (2, 32), type_name, lambda bad=bad: bad),
        ]
        with pytest.raises(InputError, match="'bad'"):
            write_gguf(str(path), METADATA, tensors)
        assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    path = small_file(tmp_path / "a.gguf")
    with pytest.raises(UsageError, match="-f"):
        write_gguf(str(path), {}, [])
    assert is_gguf(path) and not is_gguf(tmp_path / "absent")


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=path.name):
            GGUFFile(path)
