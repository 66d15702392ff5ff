"""Products of 8-bit activations and weights against float64, and rounding to 8 bits."""

from __future__ import annotations

import pytest
import torch

from differences import error
from llmtools.triton_kernels.launch import Config
from llmtools.triton_kernels.limits import LARGEST_CODE
from llmtools.triton_kernels.scaled_matmul import (
    quantize_rows,
    scaled_config,
    scaled_matmul,
)

# Of the largest value: sums are exact in int32, near it in fp32, and rounded once.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
STORED = pytest.mark.parametrize("stored", list(LARGEST_CODE), ids=str)
SMALL = Config(blocks={"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 32})


def drawn(M, K, N, stored):
    torch.manual_seed(0)
    x, w = (
        (100 * torch.randn(rows, K)).clamp(-LARGEST_CODE[stored], LARGEST_CODE[stored]).to(stored)
        for rows in (M, N)
    )
    return x, torch.rand(M) / 100, w, torch.rand(N) / 100, torch.randn(N)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@STORED
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 100, 19), (40, 64, 33)])
def test_products_are_those_of_float64(shape, stored, dtype):
    x, x_scales, w, w_scales, bias = drawn(*shape, stored)
    want = (x.double() @ w.double().T) * x_scales.double()[:, None] * w_scales.double()
    for config in (SMALL, None):
        found = scaled_matmul(x, x_scales, w, w_scales, None, dtype=dtype, config=config)
        assert error(found, want) < TOLERANCE[dtype]
    found = scaled_matmul(x, x_scales, w, w_scales, bias.to(dtype), dtype=dtype, config=SMALL)
    assert error(found, want + bias.to(dtype).double()) < TOLERANCE[dtype]


@STORED
def test_scales_of_other_rows_and_outputs_are_told_apart(stored):
    x, x_scales, w, w_scales, _ = drawn(6, 64, 20, stored)
    want = (x.double() @ w.double().T) * x_scales.double()[:, None] * w_scales.double()
    named = {"dtype": torch.bfloat16, "config": SMALL}
    assert error(scaled_matmul(x, x_scales.roll(1), w, w_scales, None, **named), want) > 1.6e-2
    assert error(scaled_matmul(x, x_scales, w, w_scales.roll(1), None, **named), want) > 1.6e-2


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@STORED
@pytest.mark.parametrize("shape", [(1, 1), (4, 70), (2, 1000)])
def test_rows_are_rounded_to_the_nearest_code(shape, stored, dtype):
    torch.manual_seed(0)
    x = torch.randn(shape[0], shape[1] + 3).to(dtype)[:, : shape[1]]
    codes, scales = quantize_rows(x, stored)
    largest = x.double().abs().amax(1)
    assert error(scales * LARGEST_CODE[stored], largest) < 1e-6
    # Half a code of int8; three bits of mantissa of fp8, and half of its least code.
    off = (codes.double() * scales.double()[:, None] - x.double()).abs()
    step = scales.double()[:, None] / 2
    limit = step if stored == torch.int8 else x.double().abs() / 16 + step * 2.0**-9
    assert (off <= limit * 1.0001).all()


@STORED
def test_a_row_of_zeros_stays_one(stored):
    codes, scales = quantize_rows(torch.zeros(2, 16), stored)
    assert not codes.float().any() and not scales.any()


def test_tiles_are_as_tall_as_the_rows():
    assert [scaled_config(rows).blocks["BLOCK_M"] for rows in (1, 17, 65)] == [16, 64, 128]
