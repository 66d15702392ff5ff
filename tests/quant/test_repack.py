"""Every format's weights, packed once, are the weights that the format's own definition gives."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from llmtools.errors import InputError
from llmtools.ops.packed_weight import PackedWeight, pack_weight, unpack_weight
from llmtools.quant.repack import GGUF_TYPES, from_awq, from_gguf, from_gptq, from_nf4


def unpacked(weight: PackedWeight) -> torch.Tensor:
    found = unpack_weight(
        weight.codes, weight.scales_GN, weight.zeros_GN, weight.table,
        bits=weight.bits, group_size=weight.group_size, num_inputs=weight.num_inputs,
        dtype=torch.float64,
    )  # fmt: skip
    if weight.order_K is None:
        return found
    back = torch.empty_like(found)
    back[weight.order_K] = found
    return back


def words(fields: list[int], bits: int) -> int:
    """A signed int32 of fields, the first lowest."""
    whole = sum(field << (bits * place) for place, field in enumerate(fields))
    return whole - (1 << 32) if whole >= 1 << 31 else whole


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("is_v2", [True, False])
def test_gptq(bits, is_sorted, is_v2):
    rng = np.random.default_rng(0)
    K, N, group, per = 64, 16, 32, 32 // bits
    codes = rng.integers(0, 1 << bits, (K, N))
    zeros = rng.integers(0, 1 << bits, (K // group, N))
    scales = torch.rand(K // group, N).half()
    g_idx = np.arange(K) // group if is_sorted else rng.permutation(np.arange(K) // group)
    stored = zeros if is_v2 else (zeros - 1) % (1 << bits)
    qweight = [
        [words([int(codes[r * per + i, n]) for i in range(per)], bits) for n in range(N)]
        for r in range(K // per)
    ]
    qzeros = [
        [words([int(row[c * per + i]) for i in range(per)], bits) for c in range(N // per)]
        for row in stored
    ]
    weight = from_gptq(
        torch.tensor(qweight, dtype=torch.int32),
        torch.tensor(qzeros, dtype=torch.int32),
        scales,
        torch.from_numpy(g_idx).int(),
        bits=bits,
        group_size=group,
        is_v2=is_v2,
    )
    want = (codes - zeros[g_idx]) * scales.double().numpy()[g_idx]
    assert (unpacked(weight).numpy() == want).all()
    assert (weight.order_K is None) == is_sorted


def test_gptq_groups_of_different_sizes_are_refused():
    g_idx = torch.tensor([0] * 40 + [1] * 24)
    qweight, qzeros = torch.zeros(8, 8, dtype=torch.int32), torch.zeros(2, 1, dtype=torch.int32)
    with pytest.raises(InputError, match="groups of 32"):
        from_gptq(qweight, qzeros, torch.ones(2, 8).half(), g_idx, bits=4, group_size=32)


def test_awq():
    rng = np.random.default_rng(0)
    K, N, group = 96, 16, 32
    codes, zeros = rng.integers(0, 16, (K, N)), rng.integers(0, 16, (K // group, N))
    scales = torch.rand(K // group, N).half()

    def packed(matrix):
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        rows = [
            [words([int(row[c * 8 + place]) for place in order], 4) for c in range(N // 8)]
            for row in matrix
        ]
        return torch.tensor(rows, dtype=torch.int32)

    weight = from_awq(packed(codes), packed(zeros), scales, group_size=group)
    of = np.arange(K) // group
    assert (unpacked(weight).numpy() == (codes - zeros[of]) * scales.double().numpy()[of]).all()


def test_nf4():
    rng = np.random.default_rng(0)
    N, K = 3, 128
    codes = rng.integers(0, 16, (N, K), dtype=np.uint8)
    values = torch.linspace(-1, 1, 16)
    absmax = torch.rand(N * K // 64)
    stored = torch.from_numpy((codes[:, ::2] << 4) | codes[:, 1::2]).view(-1, 1)
    weight = from_nf4(stored, absmax, values, (N, K))
    scales = absmax.view(N, -1).repeat_interleave(64, 1)
    want = values.double()[torch.from_numpy(codes).int()] * scales.double()
    assert torch.equal(unpacked(weight), want.T)


def blocks(type_name: str, N: int, K: int) -> torch.Tensor:
    """Random bytes with scales that are numbers, small and large."""
    kind = gguf.GGMLQuantizationType[type_name]
    size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(1)
    raw = rng.integers(0, 256, (N * K // size, num_bytes), dtype=np.uint8)
    halves = 2 if type_name in ("Q4_1", "Q4_K") else 1
    scales = rng.uniform(-0.02, 0.02, (len(raw), halves)).astype(np.float16)
    raw[:, : 2 * halves] = scales.view(np.uint8)
    return torch.from_numpy(raw).view(N, -1)


@pytest.mark.parametrize("type_name", GGUF_TYPES)
def test_gguf(type_name):
    N, K = 5, 512
    raw = blocks(type_name, N, K)
    want = gguf.dequantize(raw.numpy(), gguf.GGMLQuantizationType[type_name]).astype(np.float64)
    found = unpacked(from_gguf(raw, type_name, (N, K))).T.numpy()
    if type_name in ("Q4_1", "Q4_K"):
        # Scale and zero are rounded to fp16: 2^-11 each of what they make.
        largest = np.abs(want).reshape(N, -1, 32).max(-1).repeat(32, 1)
        assert (np.abs(found - want) <= largest * 2.0**-9).all()
        assert np.abs(found - want).max() < np.abs(want).max() * 2.0**-10
    else:
        assert (found == want).all()


def test_groups_of_one_value_stay_that_value():
    raw = blocks("Q4_1", 1, 96).view(3, 20)
    scale, offset = np.array([0, 0, 1e-7], np.float16), np.array([0.5, 0, 0.75], np.float16)
    raw[:, :2] = torch.from_numpy(scale.view(np.uint8).reshape(3, 2))
    raw[:, 2:4] = torch.from_numpy(offset.view(np.uint8).reshape(3, 2))
    found = unpacked(from_gguf(raw, "Q4_1", (1, 96)))
    assert torch.equal(found[:64, 0], torch.tensor([0.5] * 32 + [0.0] * 32).double())
    assert (found[64:] - 0.75).abs().max() < 0.75 * 2.0**-11


def test_types_without_a_place_in_the_layout_are_refused():
    with pytest.raises(InputError, match="Q6_K has no packed layout"):
        from_gguf(torch.zeros(210, dtype=torch.uint8), "Q6_K", (1, 256))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"bits": 3, "group_size": 32}, "codes of 3 bits"),
        ({"bits": 4, "group_size": 16}, "groups of 16"),
        ({"bits": 4, "group_size": 64}, "scales of shape"),
        ({"bits": 8, "group_size": 32, "table": torch.zeros(16)}, "codes of 8 bits"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(named, message):
    with pytest.raises(InputError, match=message):
        pack_weight(torch.zeros(96, 4, dtype=torch.uint8), torch.ones(3, 4), **named)
