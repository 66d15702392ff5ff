"""Our GGUF codecs, reader and writer against the `gguf` package; bits are equal (no tolerance)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as PeerType

from llmtools.formats import block_codecs
from llmtools.formats.block_codecs import BLOCK_TYPES, DECODABLE, dequantize, quantize
from llmtools.formats.gguf import GGUFFile
from llmtools.formats.gguf_writer import TensorSource, write_gguf


def weights(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Normal values of many magnitudes, with zero rows, ties, signed zeros and half steps."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-4, 3, (rows, 1))
    x[0] = 0.0
    x[1] = -0.0
    x[2] = rng.integers(-127, 128, columns) / 2
    x[3, :32] = np.where(np.arange(32) % 2, 4.0, -4.0)
    return x.astype(np.float32)


def stored(type_name: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Random stored bytes of a type; exponents that spell NaN or infinity are cleared."""
    rng = np.random.default_rng(seed)
    kind = BLOCK_TYPES[type_name]
    raw = rng.integers(0, 256, rows * kind.num_bytes(columns), dtype=np.uint8)
    blocks = raw.reshape(-1, kind.block_bytes)
    halves = {"F16": 1, "Q8_0": 1, "Q4_0": 1, "Q4_1": 2}.get(type_name, 0)
    for half in range(halves):
        blocks[:, 2 * half + 1] &= 0xBF
    if type_name in ("F32", "BF16"):
        blocks[:, -1] &= 0xBF
    return raw


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def decodes_like_peer(decode: Callable[..., np.ndarray], name: str, columns: int) -> bool:
    raw = stored(name, 5, columns)
    peer = gguf.dequantize(raw.reshape(5, -1), PeerType[name])
    return same_bits(decode(raw, name, (5, columns)), peer)


def encodes_like_peer(encode: Callable[..., np.ndarray], name: str, columns: int) -> bool:
    x = weights(7, columns)
    return same_bits(encode(x, name), gguf.quantize(x, PeerType[name]).view(np.uint8).reshape(-1))


@pytest.mark.parametrize("name", DECODABLE)
@pytest.mark.parametrize("columns", [32, 96, 2048])
def test_dequantize_has_the_peers_bits(name: str, columns: int) -> None:
    assert decodes_like_peer(dequantize, name, columns)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("columns", [32, 96, 2048])
def test_quantize_has_the_peers_bits(name: str, columns: int) -> None:
    assert encodes_like_peer(quantize, name, columns)


def test_the_checks_reject_swapped_nibbles_and_a_wrong_scale_sign() -> None:
    def swapped(raw: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
        blocks = raw.reshape(-1, BLOCK_TYPES[name].block_bytes).copy()
        head = BLOCK_TYPES[name].block_bytes - 16
        blocks[:, head:] = (blocks[:, head:] << 4) | (blocks[:, head:] >> 4)
        return dequantize(blocks.reshape(-1), name, shape)

    def flipped(values: np.ndarray, name: str) -> np.ndarray:
        return quantize(-values, name)

    assert not decodes_like_peer(swapped, "Q4_0", 96)
    assert not decodes_like_peer(swapped, "Q4_1", 96)
    assert not encodes_like_peer(flipped, "Q8_0", 96)
    assert not encodes_like_peer(flipped, "Q4_0", 96)


def test_nan_stays_nan_in_bf16_as_in_the_peer() -> None:
    raw = np.array([0x7F800001, 0xFFFFFFFF, 0x7FC00000, 0x7F800000], np.uint32)
    ours = block_codecs._encode_bf16(raw.view(np.float32))
    assert same_bits(ours, gguf.quantize(raw.view(np.float32), PeerType.BF16).reshape(-1))


METADATA = {
    "general.architecture": "llama",
    "general.name": "tiny – ü",
    "llama.block_count": 2,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.tokens": ["a", "Ġb", "", "€"],
    "tokenizer.ggml.scores": np.array([0.5, -1.0, 0.0], np.float32),
    "tokenizer.ggml.token_type": np.array([1, 3, 1], np.int32),
    "tokenizer.ggml.add_bos_token": False,
}


def test_the_peer_reads_what_we_write(tmp_path: Path) -> None:
    x = weights(6, 64)
    names = ["F32", "F16", "BF16", "Q8_0", "Q4_0"]
    sources = [TensorSource(f"t.{n}", x.shape, n, lambda: x) for n in names]
    sources.append(TensorSource("odd", (3,), "F32", lambda: x[4, :3]))
    write_gguf(str(tmp_path / "a.gguf"), METADATA, sources)
    peer = gguf.GGUFReader(tmp_path / "a.gguf")
    for key, value in METADATA.items():
        got = peer.fields[key].contents()
        assert got == (value.tolist() if isinstance(value, np.ndarray) else value), key
    ours = GGUFFile(tmp_path / "a.gguf")
    assert [t.name for t in peer.tensors] == list(ours.tensors)
    for tensor in peer.tensors:
        assert tuple(reversed(tensor.shape.tolist())) == ours.tensors[tensor.name].shape
        assert same_bits(
            gguf.dequantize(tensor.data, tensor.tensor_type).reshape(-1),
            ours.load(tensor.name).reshape(-1),
        )


def test_we_read_what_the_peer_writes(tmp_path: Path) -> None:
    path = tmp_path / "peer.gguf"
    x = weights(6, 64)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint64("a.u64", 2**40)
    writer.add_int8("a.i8", -5)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_array("a.strings", ["x", "ÿ"])
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_array("a.floats", [0.5, 0.25])
    writer.add_tensor("plain", x)
    for name in ("Q4_0", "Q4_1", "Q8_0", "BF16"):
        packed = gguf.quantize(x, PeerType[name])
        writer.add_tensor(name, packed, raw_dtype=PeerType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours = GGUFFile(path)
    assert ours.metadata["a.u64"] == 2**40
    assert ours.metadata["a.i8"] == -5
    assert ours.metadata["a.f64"] == 0.1
    assert ours.metadata["a.bool"] is True
    assert ours.metadata["a.strings"] == ["x", "ÿ"]
    assert ours.metadata["a.ints"].tolist() == [1, -2, 3]
    assert ours.metadata["a.floats"].tolist() == [0.5, 0.25]
    assert same_bits(ours.load("plain"), x)
    for name in ("Q4_0", "Q4_1", "Q8_0", "BF16"):
        assert same_bits(
            ours.load(name), gguf.dequantize(gguf.quantize(x, PeerType[name]), PeerType[name])
        )


def test_the_type_table_is_the_peers() -> None:
    for kind in BLOCK_TYPES.values():
        peer = PeerType[kind.name]
        assert (kind.block_size, kind.block_bytes) == gguf.GGML_QUANT_SIZES[peer], kind.name
        assert kind.type_id == peer.value
