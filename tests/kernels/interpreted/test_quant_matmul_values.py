"""Products with packed weights against float64, and layouts read wrongly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from differences import error
from llmtools.ops.packed_weight import PackedWeight, pack_weight
from llmtools.triton_kernels.launch import Config
from llmtools.triton_kernels.quant_matmul import choose_splits, quant_matmul

# Of the largest value; weights are rounded to the dtype before they are multiplied.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def drawn(K, N, bits, group_size, kind):
    """A packed weight and, in float64, the weight that it should be, from its codes one by one."""
    codes = torch.randint(0, 1 << bits, (K, N), dtype=torch.uint8)
    groups = -(-K // group_size)
    scales = (torch.rand(groups, N) + 0.5).half() / (1 << bits)
    zeros = torch.randint(0, 1 << bits, (groups, N)).half() if kind == "zeros" else None
    table = torch.randn(16).sort().values if kind == "table" else None
    of = torch.arange(K) // group_size
    if table is not None:
        values = table.double()[codes.int()]
    else:
        middle = torch.full((groups, N), 1 << (bits - 1))
        values = codes.double() - (middle if zeros is None else zeros).double()[of]
    packed = pack_weight(codes, scales, zeros, bits=bits, group_size=group_size, table=table)
    return packed, values * scales.double()[of]


def product(x, weight: PackedWeight, bias=None, **named):
    parts = (weight.codes, weight.scales_GN, weight.zeros_GN, weight.table)
    sizes = {"bits": weight.bits, "group_size": weight.group_size}
    return quant_matmul(x, *parts, bias, **sizes, **named)


SMALL = Config(blocks={"BLOCK_M": 16, "BLOCK_N": 16})
# rows, inputs, outputs, bits, group, kind of zero, splits, config
CASES = {
    "one of everything": (1, 1, 1, 4, 32, "middle", None, None),
    "one row": (1, 320, 70, 4, 64, "zeros", 3, None),
    "one row of 8 bits": (1, 200, 33, 8, 32, "middle", None, None),
    "one row, a table": (1, 128, 48, 4, 64, "table", 2, None),
    "groups of 32": (5, 192, 40, 4, 32, "middle", 1, SMALL),
    "odd sizes": (17, 100, 19, 4, 64, "zeros", 1, SMALL),
    "split in three": (3, 448, 20, 4, 128, "zeros", 3, SMALL),
    "8 bits with zeros": (33, 96, 17, 8, 32, "zeros", 2, SMALL),
    "a table": (20, 130, 16, 4, 64, "table", None, SMALL),
    "one group": (4, 160, 16, 4, 160, "zeros", None, SMALL),
    "chosen tiles": (70, 128, 65, 4, 128, "zeros", None, None),
}


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("name", list(CASES))
def test_products_are_those_of_float64(name, dtype):
    torch.manual_seed(0)
    M, K, N, bits, group_size, kind, splits, config = CASES[name]
    packed, weight = drawn(K, N, bits, group_size, kind)
    x, bias = torch.randn(M, K).to(dtype), torch.randn(N).to(dtype)
    want = x.double() @ weight
    found = product(x, packed, splits=splits, config=config)
    assert error(found, want) < TOLERANCE[dtype]
    found = product(x, packed, bias, splits=splits, config=config)
    assert error(found, want + bias.double()) < TOLERANCE[dtype]


def test_rows_may_lie_apart():
    packed, weight = drawn(64, 16, 4, 32, "middle")
    x = torch.randn(4, 80)[:, :64]
    assert error(product(x, packed, config=SMALL), x.double() @ weight) < 2e-6


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        # Halves exchanged; the group before; GPTQ's zero less one; a table read backwards.
        ("zeros", lambda w: replace(w, codes=(w.codes >> 4) | (w.codes << 4))),
        ("zeros", lambda w: replace(w, scales_GN=w.scales_GN.roll(1, 0))),
        ("zeros", lambda w: replace(w, zeros_GN=w.zeros_GN - 1)),
        ("middle", lambda w: replace(w, zeros_GN=torch.full_like(w.scales_GN, 7))),
        ("table", lambda w: replace(w, table=w.table.flip(0))),
    ],
    ids=["halves", "groups", "zeros", "middle", "table"],
)
def test_a_layout_read_wrongly_is_told_apart(kind, wrong, rows):
    torch.manual_seed(0)
    packed, weight = drawn(256, 32, 4, 32, kind)
    x = torch.randn(rows, 256).bfloat16()
    config = None if rows == 1 else SMALL
    assert error(product(x, packed, config=config), x.double() @ weight) < 1.6e-2
    assert error(product(x, wrong(packed), config=config), x.double() @ weight) > 3.2e-2


def test_splits_fill_the_gpu_and_no_more():
    assert choose_splits(num_tiles=1000, num_runs=64, multiprocessors=132) == 1
    assert choose_splits(num_tiles=66, num_runs=64, multiprocessors=132) == 4
    assert choose_splits(num_tiles=1, num_runs=64, multiprocessors=132) == 8
    assert choose_splits(num_tiles=1, num_runs=3, multiprocessors=132) == 1
