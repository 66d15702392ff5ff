"""Log-probabilities, cross-entropy and z-loss against float64, fused with their product or not."""

from __future__ import annotations

import pytest
import torch

from llmtools.triton_kernels.loss import (
    chunk_rows,
    linear_cross_entropy,
    linear_log_probs,
    linear_log_probs_backward,
    log_probs,
    log_probs_grad_,
)

# Of the largest value; fused, logits are rounded to the dtype and summed over the vocabulary.
TOLERANCE = {torch.float32: 4e-6, torch.float16: 3e-3, torch.bfloat16: 2.4e-2}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
IGNORE = -100


def error(found, want):
    assert found.shape == want.shape
    return ((found.double() - want).abs().max() / want.abs().max().clamp(min=1)).item()


def reference(logits, labels, softcap):
    z = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    kept = labels != IGNORE
    lses = torch.where(kept, z.logsumexp(-1), 0.0)
    at_label = z.gather(1, torch.where(kept, labels, 0)[:, None])[:, 0]
    return torch.where(kept, at_label - lses, 0.0), lses


def drawn(T, V):
    torch.manual_seed(0)
    labels = torch.randint(0, V, (T,))
    labels[1::3] = IGNORE
    return labels, torch.randn(T), torch.randn(T)


@DTYPES
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("shape", [(1, 1), (5, 70), (3, 9000)])
def test_log_probs_and_their_gradients(shape, softcap, dtype):
    labels, of_log_probs, of_lses = drawn(*shape)
    logits = (4 * torch.randn(shape)).to(dtype)
    deep = logits.double().requires_grad_()
    want = reference(deep, labels, softcap)
    ((want[0] * of_log_probs).sum() + (want[1] * of_lses).sum()).backward()
    found = log_probs(logits, labels, softcap=softcap, ignore=IGNORE)
    # Sums are in fp32 whatever the logits are in.
    assert max(error(found[0], want[0]), error(found[1], want[1])) < 4e-6
    log_probs_grad_(logits, labels, found[1], of_log_probs, of_lses, softcap=softcap, ignore=IGNORE)
    assert error(logits, deep.grad) < TOLERANCE[dtype]
    assert (logits[labels == IGNORE] == 0).all()


def test_logits_that_exclude_tokens_are_taken():
    logits = torch.full((2, 70), -torch.inf)
    logits[:, 3] = 1.0
    labels = torch.tensor([3, 3])
    found, lses = log_probs(logits, labels, softcap=None, ignore=IGNORE)
    assert torch.equal(found, torch.zeros(2)) and torch.equal(lses, torch.ones(2))
    log_probs_grad_(
        logits, labels, lses, -torch.ones(2), torch.zeros(2), softcap=None, ignore=IGNORE
    )
    assert torch.equal(logits, torch.zeros(2, 70))


def fused(dtype, z_weight=0.1, softcap=None, T=11, twin=None, chunk=4):
    """Differences of the fused loss and its gradients; twin: (z_weight, softcap) of the other."""
    labels, *_ = drawn(T, 50)
    hidden, weight = (torch.randn(T, 24) / 2).to(dtype), torch.randn(50, 24).to(dtype)
    found = linear_cross_entropy(
        hidden, weight, labels, ignore=IGNORE, z_weight=z_weight, softcap=softcap, chunk=chunk
    )
    deep = [x.double().requires_grad_() for x in (hidden, weight)]
    z_weight, softcap = twin or (z_weight, softcap)
    want, lses = reference(deep[0] @ deep[1].T, labels, softcap)
    loss, z_loss = -want.sum(), z_weight * lses.square().sum()
    (loss + z_loss).backward()
    return {
        "loss": error(found.cross_entropy, loss),
        "z_loss": error(found.z_loss, z_loss),
        "hidden": error(found.grad_hidden_TC, deep[0].grad),
        "weight": error(found.grad_weight_VC, deep[1].grad),
    }


@DTYPES
@pytest.mark.parametrize("softcap", [None, 8.0])
def test_fused_cross_entropy(softcap, dtype):
    found = fused(dtype, softcap=softcap)
    assert max(found.values()) < TOLERANCE[dtype], found


def test_one_chunk_or_many():
    for chunk in (1, 11, 64, None):
        found = fused(torch.float32, chunk=chunk)
        assert max(found.values()) < 4e-6, found


def test_another_z_loss_and_another_cap_are_told_apart():
    found = fused(torch.bfloat16, z_weight=0.1, twin=(0.0, None))
    assert min(found["z_loss"], found["hidden"], found["weight"]) > 4.8e-2, found
    found = fused(torch.bfloat16, softcap=8.0, twin=(0.1, None))
    assert min(found["loss"], found["hidden"]) > 4.8e-2, found


def test_without_gradients_none_are_made():
    labels, *_ = drawn(4, 50)
    found = linear_cross_entropy(
        torch.randn(4, 24), torch.randn(50, 24), labels, ignore=IGNORE, has_gradient=False
    )
    assert found.grad_hidden_TC is None and found.grad_weight_VC is None


@DTYPES
def test_fused_log_probs(dtype):
    labels, of_log_probs, of_lses = drawn(11, 50)
    hidden, weight = torch.randn(11, 24).to(dtype), torch.randn(50, 24).to(dtype)
    named = {"ignore": IGNORE, "softcap": 8.0, "chunk": 4}
    found = linear_log_probs(hidden, weight, labels, **named)
    grads = linear_log_probs_backward(
        hidden, weight, labels, found[1], of_log_probs, of_lses, **named
    )
    deep = [x.double().requires_grad_() for x in (hidden, weight)]
    want = reference(deep[0] @ deep[1].T, labels, 8.0)
    ((want[0] * of_log_probs).sum() + (want[1] * of_lses).sum()).backward()
    pairs = [*zip(found, want, strict=True), *zip(grads, [x.grad for x in deep], strict=True)]
    assert max(error(*pair) for pair in pairs) < TOLERANCE[dtype]


def test_chunks_hold_about_as_much_as_the_hidden_states():
    assert chunk_rows(8192, 4096, 128256) == 512
    assert chunk_rows(10, 64, 32000) == 256
