"""The fused loss against its definition: values, gradients, what is left out, what it holds."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from differences import error
from llmtools.ops import loss
from llmtools.ops.loss import (
    IGNORE,
    chunk_rows,
    cross_entropy,
    cross_entropy_reference,
    linear_log_probs,
    log_probs_reference,
)

TOLERANCE = 2e-5


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Three chunks of the tokens below, the last not full."""
    monkeypatch.setattr(loss, "LEAST_CHUNK", 4)


def drawn(labels=(0, 12, IGNORE, 5, IGNORE, 1, 2, 3, IGNORE, 7, 7)):
    torch.manual_seed(6)
    return torch.randn(len(labels), 8), torch.randn(13, 8), torch.tensor(labels)


def gradients(function, hidden, weight, labels, **named):
    leaves = [x.detach().clone().requires_grad_() for x in (hidden, weight)]
    out = function(*leaves, labels, **named)
    parts = out if isinstance(out, tuple) else (out,)
    total = sum(
        (part * torch.linspace(-1, 2, part.numel()).view(part.shape)).sum() for part in parts
    )
    total.backward()
    return [*(part.detach().float() for part in parts), *(x.grad for x in leaves)]


CASES = [{}, {"softcap": 3.0}, {"z_weight": 0.1}, {"softcap": 3.0, "z_weight": 0.1}]


@pytest.mark.parametrize("named", CASES, ids=str)
def test_cross_entropy_is_its_definition_and_skips_ignored_labels(named):
    given = drawn()
    found = gradients(cross_entropy, *given, **named)
    assert error(found, gradients(cross_entropy_reference, *given, **named)) < TOLERANCE
    assert torch.equal(found[1][given[2] == IGNORE], torch.zeros(3, 8))
    for other in CASES:
        if other != named:
            twin = gradients(cross_entropy_reference, *given, **other)
            assert error(found, twin) > 0.01, other


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_log_probs_are_their_definition(softcap):
    given = drawn()
    found = gradients(linear_log_probs, *given, softcap=softcap)
    assert error(found, gradients(log_probs_reference, *given, softcap=softcap)) < TOLERANCE
    twin = gradients(log_probs_reference, *given, softcap=5.0)
    assert error(found, twin) > 0.01


def test_the_loss_is_minus_the_sum_of_log_probs():
    given = drawn()
    assert torch.allclose(cross_entropy(*given), -linear_log_probs(*given)[0].sum())


def test_no_label_is_a_loss_of_zero_not_nan():
    hidden, weight, labels = drawn((IGNORE,) * 4)
    found = gradients(cross_entropy, hidden, weight, labels)
    assert all(torch.equal(part, torch.zeros_like(part)) for part in found)
    empty = cross_entropy(hidden[:0], weight, labels[:0])
    assert empty.item() == 0.0


def test_a_frozen_weight_gets_no_gradient_and_none_is_made():
    hidden, weight, labels = drawn()
    hidden.requires_grad_()
    cross_entropy(hidden, weight, labels).backward()
    assert hidden.grad is not None and weight.grad is None


def test_no_gradient_is_made_where_none_is_kept(monkeypatch):
    hidden, weight, labels = drawn()
    monkeypatch.setattr(loss, "log_probs_grad_", None)
    with torch.no_grad():
        cross_entropy(hidden.requires_grad_(), weight.requires_grad_(), labels)
    with pytest.raises(TypeError):
        cross_entropy(hidden, weight, labels)


def test_autocast_rounds_the_product_and_not_the_sums():
    hidden, weight, labels = drawn()
    want = gradients(cross_entropy_reference, hidden.bfloat16(), weight.bfloat16(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(cross_entropy, hidden, weight, labels)
    assert found[0].dtype == found[1].dtype == found[2].dtype == torch.float32
    assert 0 < error(found, [part.float() for part in want]) < 2**-6


def test_a_second_backward_is_refused_as_the_first_one_s_gradients_are_scaled_in_place():
    hidden, weight, labels = drawn()
    out = cross_entropy(hidden.requires_grad_(), weight, labels)
    (3 * out).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_whole():
    hidden, weight, labels = drawn()
    compiled = torch.compile(cross_entropy, backend="aot_eager", fullgraph=True)
    found = gradients(compiled, hidden, weight, labels, softcap=3.0)
    assert error(found, gradients(cross_entropy, hidden, weight, labels, softcap=3.0)) < 1e-6


def test_a_loss_on_a_cpu_does_without_torch_s_compiler():
    program = """
import sys, torch
from llmtools import ops
q = torch.randn(5, 2, 8, requires_grad=True)
ops.attention(q, q, q, [5]).sum().backward()
x = torch.randn(4, 8, requires_grad=True)
ops.cross_entropy(ops.swiglu(ops.rms_norm(x, x[0], 1e-5), x), x, torch.arange(4)).backward()
sys.exit("torch._dynamo" in sys.modules)
"""
    # Importing it takes a second and 160 MB.
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_chunks_hold_about_as_much_as_the_hidden_states(monkeypatch):
    monkeypatch.setattr(loss, "LEAST_CHUNK", 256)
    assert chunk_rows(8192, 4096, 128256) == 512
    assert chunk_rows(10, 64, 32000) == 256
