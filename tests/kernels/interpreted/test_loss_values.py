"""Log-probabilities of labels and their gradients against float64."""

from __future__ import annotations

import pytest
import torch

from differences import error
from llmtools.triton_kernels.loss import log_probs, log_probs_grad_

# Of the largest value: the rounding of the dtype.
TOLERANCE = {torch.float32: 4e-6, torch.float16: 3e-3, torch.bfloat16: 2.4e-2}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
IGNORE = -100


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


def test_another_cap_and_another_label_are_told_apart():
    labels, of_log_probs, of_lses = drawn(5, 70)
    logits = 4 * torch.randn(5, 70)
    found, lses = log_probs(logits, labels, softcap=5.0, ignore=IGNORE)
    for twin in (reference(logits, labels, 6.0), reference(logits, (labels + 1) % 70, 5.0)):
        assert error(found, twin[0]) > 0.01
    log_probs_grad_(logits, labels, lses, of_log_probs, of_lses, softcap=5.0, ignore=IGNORE)
    twin = logits.clone()
    log_probs_grad_(twin, labels, lses, of_log_probs, -of_lses, softcap=5.0, ignore=IGNORE)
    assert error(logits, twin.double()) > 0.01
