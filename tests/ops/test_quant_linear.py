"""Products with packed weights where no GPU is: values, gradients, and what torch asks of an op."""

from __future__ import annotations

import pytest
import torch

from llmtools.ops.packed_weight import pack_weight
from llmtools.ops.quant_linear import (
    _product,
    quant_linear,
    quant_linear_reference,
    quant_refusal,
)


def weight(K=96, N=10, order=None, kind="zeros"):
    torch.manual_seed(0)
    codes = torch.randint(0, 16, (K, N), dtype=torch.uint8)
    zeros = torch.randint(0, 16, (3, N)).half() if kind == "zeros" else None
    table = torch.randn(16) if kind == "table" else None
    scales = torch.rand(3, N).half()
    return pack_weight(codes, scales, zeros, bits=4, group_size=32, table=table, order_K=order)


@pytest.mark.parametrize("kind", ["zeros", "middle", "table"])
@pytest.mark.parametrize("shape", [(96,), (1, 96), (2, 3, 96), (0, 96)])
def test_it_is_the_definition(kind, shape):
    packed, x, bias = weight(kind=kind), torch.randn(shape), torch.randn(10)
    want = quant_linear_reference(x, packed, bias)
    assert want.shape == (*shape[:-1], 10)
    torch.testing.assert_close(quant_linear(x, packed, bias), want, rtol=1e-5, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(quant_linear(x, packed, bias), want, rtol=1e-5, atol=1e-4)


def test_inputs_are_taken_in_the_order_of_the_weight():
    order = torch.randperm(96)
    x = torch.randn(4, 96)
    found = quant_linear(x, weight(order=order))
    torch.testing.assert_close(found, quant_linear(x[:, order], weight()))
    assert not torch.allclose(found, quant_linear(x, weight()), atol=0.1)


def test_gradients_are_those_of_the_definition():
    packed = weight()
    x, bias = torch.randn(5, 96, requires_grad=True), torch.randn(10, requires_grad=True)
    twins = [t.detach().clone().requires_grad_() for t in (x, bias)]
    grad = torch.randn(5, 10)
    quant_linear(x, packed, bias).backward(grad)
    quant_linear_reference(twins[0], packed, twins[1]).backward(grad)
    for found, want in zip((x, bias), twins, strict=True):
        torch.testing.assert_close(found.grad, want.grad, rtol=1e-5, atol=1e-4)


def test_torch_finds_the_op_sound():
    packed = weight()
    args = (packed.codes, packed.scales_GN, packed.zeros_GN, None, None, 4, 32, False)
    torch.library.opcheck(_product, (torch.randn(3, 96, requires_grad=True), *args))


def test_the_kernel_names_what_it_does_not_take():
    assert quant_refusal(torch.zeros(1, dtype=torch.bfloat16)) is None
    assert "float32" in (quant_refusal(torch.zeros(1)) or "")
