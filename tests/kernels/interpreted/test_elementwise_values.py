"""Norms, rotations and gates against float64, their gradients against autograd, and twins that
are wrong in a sign, a mean or an activation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from differences import error
from llmtools.triton_kernels.gated import gated_backward, gated_forward
from llmtools.triton_kernels.norm import norm_backward, norm_forward
from llmtools.triton_kernels.rope import rope

# Of the largest value: a few roundings in fp32, and that of stored results.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)


def normed(z, weight, bias, eps, is_centred):
    z = z - z.mean(-1, keepdim=True) if is_centred else z
    y = z * (z.pow(2).mean(-1, keepdim=True) + eps).rsqrt() * weight
    return y if bias is None else y + bias


def norm_errors(shape, dtype, *, is_centred=False, has_bias=False, is_added=False, twin=None):
    """twin: is_centred of the reference, where that is another one."""
    torch.manual_seed(0)
    T, H, C = shape
    # Heads lie apart, as in the output of one projection of queries, keys and values.
    x = (torch.randn(T, H + 2, C) + 0.5).to(dtype)[:, 1 : H + 1]
    residual = torch.randn(shape).to(dtype) if is_added else None
    weight, bias = (torch.randn(C) + 1).to(dtype), torch.randn(C).to(dtype) if has_bias else None
    grad, grad_sums = (torch.randn(shape).to(dtype) for _ in range(2))
    found = norm_forward(x, weight, bias, residual, eps=1e-5, is_centred=is_centred)
    dz, dweight, dbias = norm_backward(
        grad, grad_sums if is_added else None, found.sums, weight, found.means, found.rstds,
        has_bias=has_bias,
    )  # fmt: skip
    z = (found.sums if is_added else x).detach().double().requires_grad_()
    wide = [None if t is None else t.double().requires_grad_() for t in (weight, bias)]
    want = normed(z, *wide, 1e-5, is_centred if twin is None else twin)
    total = (want * grad.double()).sum()
    (total + (z * grad_sums.double()).sum() if is_added else total).backward()
    pairs = {"out": (found.out, want), "dz": (dz, z.grad), "dweight": (dweight, wide[0].grad)}
    if dbias is not None:
        pairs["dbias"] = (dbias, wide[1].grad)
    if residual is not None:
        pairs["sums"] = (found.sums, x.double() + residual.double())
    return {name: error(*pair) for name, pair in pairs.items()}


NORMS = {
    "rms": ((5, 1, 48), {}),
    "one value": ((1, 1, 1), {}),
    "heads": ((7, 3, 16), {}),
    "add and rms": ((3, 1, 100), {"is_added": True}),
    "layer": ((4, 1, 33), {"is_centred": True, "has_bias": True}),
    "layer, long": ((2, 1, 5000), {"is_centred": True}),
}


@DTYPES
@pytest.mark.parametrize("name", list(NORMS))
def test_norms(name, dtype):
    shape, named = NORMS[name]
    found = norm_errors(shape, dtype, **named)
    assert max(found.values()) < TOLERANCE[dtype], found


def test_many_vectors_are_shared_by_few_programs():
    found = norm_errors((540, 1, 2049), torch.float32)
    assert max(found.values()) < 1e-5, found


def test_a_norm_about_another_mean_is_told_apart():
    found = norm_errors((4, 1, 64), torch.bfloat16, is_centred=True, twin=False)
    assert min(found["out"], found["dz"]) > 3.2e-2, found


def rotated(x, cos, sin, is_interleaved, sign=1):
    half = cos.shape[1]
    a, b = torch.arange(half), torch.arange(half) + half
    if is_interleaved:
        a, b = 2 * torch.arange(half), 2 * torch.arange(half) + 1
    c, s = cos.double()[:, None], sin.double()[:, None] * sign
    out = x.double().clone()
    out[..., a] = x.double()[..., a] * c - x.double()[..., b] * s
    out[..., b] = x.double()[..., b] * c + x.double()[..., a] * s
    return out


def rotation(dtype, T=5, head_dim=24, half=12):
    torch.manual_seed(0)
    joined = torch.randn(T, 3 + 1, head_dim).to(dtype)
    angles = torch.randn(T, half)
    return joined[:, :3], joined[:, 3:], angles.cos(), angles.sin()


@DTYPES
@pytest.mark.parametrize("is_interleaved", [False, True])
@pytest.mark.parametrize("half", [12, 5])
def test_rotations(dtype, is_interleaved, half):
    q, k, cos, sin = rotation(dtype, half=half)
    for sign in (1, -1):
        found = rope(q, k, cos, sin, is_interleaved=is_interleaved, is_inverse=sign < 0)
        for x, turned in zip((q, k), found, strict=True):
            assert error(turned, rotated(x, cos, sin, is_interleaved, sign)) < TOLERANCE[dtype]


def test_the_inverse_turns_back_over_many_tokens():
    q, k, cos, sin = rotation(torch.float32, T=1100, head_dim=16, half=8)
    back = rope(*rope(q, k, cos, sin), cos, sin, is_inverse=True)
    assert error(back[0], q.double()) < 1e-6 and error(back[1], k.double()) < 1e-6


def test_the_other_layout_and_the_other_direction_are_told_apart():
    q, k, cos, sin = rotation(torch.bfloat16)
    found = rope(q, k, cos, sin)[0]
    assert error(found, rotated(q, cos, sin, True)) > 0.1
    assert error(found, rotated(q, cos, sin, False, -1)) > 0.1


ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def gate_errors(shape, dtype, activation, twin=None):
    torch.manual_seed(0)
    R, size = shape
    gate, up = (2 * torch.randn(R, 2 * size)).to(dtype).chunk(2, 1)
    grad = torch.randn(shape).to(dtype)
    dgate, dup = gated_backward(grad, gate, up, activation=activation)
    wide = [x.detach().double().requires_grad_() for x in (gate, up)]
    want = ACTIVATIONS[twin or activation](wide[0]) * wide[1]
    want.backward(grad.double())
    found = gated_forward(gate, up, activation=activation)
    return [error(found, want), error(dgate, wide[0].grad), error(dup, wide[1].grad)]


@DTYPES
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (2, 1500)])
def test_gates(shape, dtype, activation):
    found = gate_errors(shape, dtype, activation)
    assert max(found) < TOLERANCE[dtype], found


def test_another_activation_is_told_apart():
    assert min(gate_errors((3, 70), torch.bfloat16, "silu", twin="gelu")) > 3.2e-2
    # The two forms of GELU lie 5e-4 apart.
    assert max(gate_errors((3, 700), torch.float32, "gelu", twin="gelu_tanh")) > 4e-6
