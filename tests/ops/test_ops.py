"""Every operation against its float64 reference, forward and backward."""

from __future__ import annotations

import pytest
import torch

from llmtools import ops
from llmtools.ops.attention import attention_reference
from llmtools.ops.gated import gated_reference
from llmtools.ops.linear import MAX_NATIVE_ROWS, linear_reference
from llmtools.ops.norm import layer_norm_reference, rms_norm_reference
from llmtools.ops.rope import apply_rope_reference

# fp32 rounding over sums of at most a few hundred terms of size one.
TOLERANCE = 2e-5


def gradients(function, *inputs):
    """Output of function(*inputs) and the gradients of a fixed weighted sum of it."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    weights = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
    (out * weights).sum().backward()
    return out.detach(), [x.grad for x in leaves]


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("lengths", [[1], [5], [4, 4, 4], [1, 7, 3, 1], [33, 2]])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (3, 1)])
def test_attention_equals_its_reference(lengths, heads):
    torch.manual_seed(0)
    T, (H, K), D = sum(lengths), heads, 8
    q, k, v = torch.randn(T, H, D), torch.randn(T, K, D), torch.randn(T, K, D)
    out, grads = gradients(lambda *x: ops.attention(*x, lengths), q, k, v)
    expected, expected_grads = gradients(lambda *x: attention_reference(*x, lengths)[0], q, k, v)
    assert_close(out, expected)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert_close(grad, expected_grad)


def test_the_attention_check_rejects_a_document_boundary_that_is_off_by_one():
    torch.manual_seed(0)
    q, k, v = (torch.randn(9, 2, 8) for _ in range(3))
    with pytest.raises(AssertionError):
        assert_close(ops.attention(q, k, v, [4, 5]), attention_reference(q, k, v, [5, 4])[0])


@pytest.mark.parametrize(("new", "total"), [(1, 1), (1, 9), (4, 4), (3, 10)])
def test_cached_attention_equals_the_end_of_full_attention(new, total):
    torch.manual_seed(1)
    H, K, D = 6, 2, 8
    q, k, v = torch.randn(total, H, D), torch.randn(total, K, D), torch.randn(total, K, D)
    expected = attention_reference(q, k, v, [total])[0][total - new :]
    out = ops.cached_attention(q[total - new :], k.transpose(0, 1), v.transpose(0, 1))
    assert_close(out, expected)


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (256, 64)])
@pytest.mark.parametrize("rows", [0, 1, 3, 4, 5])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_equals_its_reference_with_and_without_gradients(shape, rows, with_bias):
    torch.manual_seed(2)
    weight, x = torch.randn(shape), torch.randn(rows, shape[1])
    bias = torch.randn(shape[0]) if with_bias else None
    expected = linear_reference(x, weight, bias)
    assert_close(ops.linear(x, weight, bias), expected)
    with torch.inference_mode():
        assert_close(ops.linear(x, weight, bias), expected)


def test_rows_of_a_small_product_do_not_depend_on_each_other():
    torch.manual_seed(2)
    weight, x = torch.randn(33, 577), torch.randn(577, MAX_NATIVE_ROWS)
    with torch.inference_mode():
        together = ops.linear(x.T, weight)
        assert torch.equal(together, torch.cat([ops.linear(row[None], weight) for row in x.T]))


def test_linear_keeps_leading_dimensions():
    with torch.no_grad():
        assert ops.linear(torch.randn(1, 1, 8), torch.randn(5, 8)).shape == (1, 1, 5)
        assert ops.linear(torch.randn(8), torch.randn(5, 8)).shape == (5,)


def test_rms_norm_equals_its_reference():
    torch.manual_seed(3)
    x, weight = torch.randn(5, 48), torch.randn(48)
    out, grads = gradients(lambda *a: ops.rms_norm(*a, 1e-5), x, weight)
    expected, expected_grads = gradients(lambda *a: rms_norm_reference(*a, 1e-5), x, weight)
    assert_close(out, expected)
    assert_close(grads[0], expected_grads[0])
    assert_close(grads[1], expected_grads[1])


@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (3, 2, 8)])
def test_rms_norm_is_the_same_with_and_without_gradients_in_any_shape(shape):
    torch.manual_seed(3)
    x, weight = torch.randn(shape), torch.randn(shape[-1])
    out, grads = gradients(lambda *a: ops.rms_norm(*a, 1e-5), x, weight)
    expected, expected_grads = gradients(lambda *a: rms_norm_reference(*a, 1e-5), x, weight)
    assert_close(out, expected)
    assert_close(grads[0], expected_grads[0])
    assert_close(grads[1], expected_grads[1])
    with torch.no_grad():
        assert_close(ops.rms_norm(x, weight, 1e-5), expected)


def test_rms_norm_in_bf16_is_its_reference_rounded():
    torch.manual_seed(3)
    x, weight = torch.randn(5, 48).bfloat16(), torch.randn(48).bfloat16()
    out, grads = gradients(lambda *a: ops.rms_norm(*a, 1e-5), x, weight)
    expected, expected_grads = gradients(lambda *a: rms_norm_reference(*a, 1e-5), x, weight)
    for ours, reference in zip((out, *grads), (expected, *expected_grads), strict=True):
        # Two roundings to 8 bits of mantissa.
        torch.testing.assert_close(ours, reference, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("residual", [False, True])
def test_norms_with_a_sum_or_a_mean_equal_their_references(residual):
    torch.manual_seed(3)
    x, other, weight, bias = (
        torch.randn(5, 48),
        torch.randn(5, 48),
        torch.randn(48),
        torch.randn(48),
    )
    if residual:
        out, grads = gradients(lambda *a: torch.cat(ops.add_rms_norm(*a, 1e-5)), x, other, weight)
        expected, expected_grads = gradients(
            lambda x, r, w: torch.cat([rms_norm_reference(x + r, w, 1e-5), x + r]), x, other, weight
        )
    else:
        out, grads = gradients(lambda *a: ops.layer_norm(*a, 1e-5), x, weight, bias)
        expected, expected_grads = gradients(
            lambda *a: layer_norm_reference(*a, 1e-5), x, weight, bias
        )
        assert not torch.allclose(out, rms_norm_reference(x, weight, 1e-5) + bias, atol=0.01)
    assert_close(out, expected)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert_close(grad, expected_grad)


GATES = {
    "silu": ops.swiglu,
    "gelu_tanh": ops.geglu,
    "gelu": lambda gate, up: ops.geglu(gate, up, approximate=False),
}


@pytest.mark.parametrize("name", list(GATES))
def test_gates_equal_their_references(name):
    torch.manual_seed(4)
    gate, up = torch.randn(5, 16), torch.randn(5, 16)
    out, grads = gradients(GATES[name], gate, up)
    expected, expected_grads = gradients(lambda *a: gated_reference(*a, name), gate, up)
    assert_close(out, expected)
    assert_close(torch.stack(grads), torch.stack(expected_grads))
    others = [gated_reference(gate, up, other) for other in GATES if other != name]
    assert all((out - other).abs().max() > 1e-4 for other in others)


@pytest.mark.parametrize("is_interleaved", [False, True])
@pytest.mark.parametrize("size", [8, 12])
def test_rope_equals_its_reference_and_its_backward_turns_back(size, is_interleaved):
    torch.manual_seed(5)
    q, k = torch.randn(6, 3, size), torch.randn(6, 1, size)
    cos, sin = ops.rope_tables(torch.tensor([0, 1, 2, 50, 1000, 8000]), 8, 10000.0)
    named = {"is_interleaved": is_interleaved}
    out, grads = gradients(lambda *a: torch.cat(ops.apply_rope(*a, cos, sin, **named), 1), q, k)
    expected, expected_grads = gradients(
        lambda *a: torch.cat([apply_rope_reference(x, cos, sin, **named) for x in a], 1), q, k
    )
    assert_close(out, expected)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert_close(grad, expected_grad)
    assert_close(
        torch.cat(ops.apply_rope(out[:, :3], out[:, 3:], cos, -sin, **named), 1),
        torch.cat([q, k], 1),
    )
    other = {"is_interleaved": not is_interleaved}
    assert not torch.allclose(out, torch.cat(ops.apply_rope(q, k, cos, sin, **other), 1), atol=0.1)


def test_rope_angles_stay_exact_at_128k_positions_in_a_bf16_model():
    positions = torch.tensor([131_071])
    cos, sin = ops.rope_tables(positions, 64, 10000.0)
    i = torch.arange(0, 64, 2, dtype=torch.float64)
    angle = positions.double()[:, None] / 10000.0 ** (i / 64)
    # fp32 holds an angle of 131,071 to 2^-8, and its cosine no better.
    torch.testing.assert_close(cos[:, 0].double(), angle.cos(), rtol=0, atol=2**-7)
    torch.testing.assert_close(sin[:, 0].double(), angle.sin(), rtol=0, atol=2**-7)
    ones = torch.ones(1, 1, 64, dtype=torch.bfloat16)
    assert {x.dtype for x in ops.apply_rope(ones, ones, cos, sin)} == {torch.bfloat16}
