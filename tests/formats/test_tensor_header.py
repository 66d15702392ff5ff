"""The safetensors container, against the safetensors library and against lies."""

from __future__ import annotations

import io
import struct

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from llmtools.errors import InputError
from llmtools.formats import tensor_header

ARRAYS = {
    "a": np.arange(3, dtype=np.uint8),
    "b": np.arange(6, dtype=np.int64).reshape(2, 3),
    "none": np.zeros((0, 4), np.float32),
    "scalar": np.array(2.5, np.float16),
}


def container(fields: object, data: bytes = b"") -> bytes:
    text = orjson.dumps(fields)
    return struct.pack("<Q", len(text)) + text + data


def read(blob: bytes) -> dict[str, np.ndarray]:
    source = io.BytesIO(blob)
    header = tensor_header.read_header(source, "blob")
    assert header is not None
    data = tensor_header.read_exactly(source, header.data_bytes, "blob")
    return {name: tensor_header.view(entry, data) for name, entry in header.tensors.items()}


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.dtype == right[name].dtype and array.shape == right[name].shape
        assert array.tobytes() == right[name].tobytes()


def test_the_safetensors_library_reads_what_we_write() -> None:
    assert_same(load(b"".join(tensor_header.dump(ARRAYS, {"k": "v"}))), ARRAYS)


def test_we_read_what_the_safetensors_library_writes() -> None:
    assert_same(read(save(ARRAYS)), ARRAYS)


def entry(dtype: object, shape: object, offsets: object) -> dict[str, object]:
    return {"t": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("fields", "mention"),
    [
        ([], "not a JSON object"),
        ({"t": 1}, "not an object"),
        ({"__metadata__": {"k": 1}}, "__metadata__"),
        (entry("F99", [1], [0, 1]), "unknown dtype"),
        (entry([], [1], [0, 1]), "unknown dtype"),
        (entry("U8", [-1], [0, 1]), "sizes"),
        (entry("U8", [True], [0, 1]), "sizes"),
        (entry("U8", [2.0], [0, 2]), "sizes"),
        (entry("U8", [0, 1 << 60], [0, 0]), "sizes"),
        (entry("U8", [2], [0, 2, 4]), "sizes"),
        (entry("U16", [2], [0, 2]), "takes 4 bytes"),
        (entry("U8", [2], [3, 5]), "gap"),
        (
            {
                "t": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
                "u": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]},
            },
            "overlaps",
        ),
    ],
)
def test_a_wrong_header_is_refused(fields: object, mention: str) -> None:
    with pytest.raises(InputError, match=mention):
        read(container(fields))


def test_a_lying_length_is_refused_before_memory_is_taken() -> None:
    huge = 1 << 45
    with pytest.raises(InputError, match="truncated"):
        read(container(entry("U8", [huge], [0, huge]), b"few"))
    with pytest.raises(InputError, match="limit"):
        read(struct.pack("<Q", 1 << 62) + b"{}")


def test_a_container_cut_anywhere_is_refused() -> None:
    blob = b"".join(tensor_header.dump(ARRAYS, {}))
    for length in range(1, len(blob)):
        with pytest.raises(InputError):
            read(blob[:length])


def test_the_end_of_a_stream_is_no_header() -> None:
    assert tensor_header.read_header(io.BytesIO(), "blob") is None


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_refused_or_read(data: bytes) -> None:
    try:
        tensor_header.parse_header(data, "blob")
    except InputError:
        pass


def test_offsets_of_a_large_file_are_accepted():
    """Their product is beyond any size although each of them is small."""
    text = b'{"a": {"dtype": "U8", "shape": [30000000], "data_offsets": [0, 30000000]},'
    text += b' "b": {"dtype": "U8", "shape": [20000000], "data_offsets": [30000000, 50000000]}}'
    header = tensor_header.parse_header(text, "big.safetensors")
    assert header.data_bytes == 50_000_000
