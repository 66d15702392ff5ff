"""8-bit products where no GPU is."""

from __future__ import annotations

import pytest
import torch

from llmtools.ops.scaled_linear import quantize_rows, scaled_linear, scaled_linear_reference


def drawn(dtype):
    torch.manual_seed(0)
    codes, scales = quantize_rows(torch.randn(10, 32), dtype)
    return codes, scales, torch.randn(10)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("shape", [(32,), (0, 32), (2, 3, 32)])
def test_it_is_the_definition_and_near_the_product_that_it_stands_for(shape, dtype):
    weight, scales, bias = drawn(dtype)
    x = torch.randn(shape)
    found = scaled_linear(x, weight, scales, bias)
    want = scaled_linear_reference(x, weight, scales, bias)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-4)
    exact = x @ (weight.float() * scales[:, None]).T + bias
    assert found.shape == exact.shape
    assert not x.numel() or (found - exact).abs().max() < 0.04 * exact.abs().max()
    assert not x.numel() or not torch.allclose(found, exact, rtol=1e-5, atol=1e-4)


def test_a_row_of_zeros_stays_zero():
    weight, scales, _ = drawn(torch.int8)
    assert torch.equal(scaled_linear(torch.zeros(1, 32), weight, scales), torch.zeros(1, 10))


def test_the_largest_value_of_a_row_is_the_largest_code():
    codes, scales = quantize_rows(torch.tensor([[1.0, -4.0, 2.0]]), torch.int8)
    assert codes.tolist() == [[32, -127, 64]] and scales.item() == pytest.approx(4 / 127)
