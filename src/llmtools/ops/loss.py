"""The next-token loss and log-probabilities of labels, fused with the product that makes logits.

Logits are made for a chunk of tokens at a time and never held for more, forward or backward (after
Liger's, Hsu et al. 2024). On a CPU that is faster too, as a chunk stays in its caches: see
benchmarks/ops.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from llmtools.ops.log_probs import IGNORE as IGNORE
from llmtools.ops.log_probs import log_probs, log_probs_grad_
from llmtools.ops.path import FLOATS, Way, choose, dtype_refusal

# A chunk's logits are about as many as the hidden states of all tokens, but at least these rows.
LEAST_CHUNK = 256


def cross_entropy_reference(
    hidden_TC: torch.Tensor,
    weight_VC: torch.Tensor,
    labels_T: torch.Tensor,
    *,
    z_weight: float = 0.0,
    softcap: float | None = None,
) -> torch.Tensor:
    """The definition in float64, see cross_entropy."""
    found, lses = log_probs_reference(hidden_TC, weight_VC, labels_T, softcap=softcap)
    return -found.sum() + z_weight * lses.square().sum()


def log_probs_reference(
    hidden_TC: torch.Tensor,
    weight_VC: torch.Tensor,
    labels_T: torch.Tensor,
    *,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition in float64, see linear_log_probs."""
    logits = hidden_TC.double() @ weight_VC.double().T
    z = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    kept = labels_T != IGNORE
    lses = z.logsumexp(-1).where(kept, 0.0)
    at_label = z.gather(1, labels_T.where(kept, 0)[:, None])[:, 0]
    return (at_label - lses).where(kept, 0.0), lses


def cross_entropy(
    hidden_TC: torch.Tensor,
    weight_VC: torch.Tensor,
    labels_T: torch.Tensor,
    *,
    z_weight: float = 0.0,
    softcap: float | None = None,
) -> torch.Tensor:
    """Sum over labelled tokens of -log softmax(z)[label] + z_weight * lse(z)^2, z = hidden W^T.

    labels_T: (T,) int64; IGNORE (-100) leaves a token out. softcap: z is softcap * tanh(z /
    softcap). returns: a scalar in fp32. Divide by the number of labels of the whole step, not of
    this call, so that the gradient does not depend on how a batch is cut into micro-batches.
    """
    hidden_TC, weight_VC = parts = _products(hidden_TC, weight_VC)
    way = choose("cross_entropy", hidden_TC, lambda: dtype_refusal(parts, FLOATS))
    if way == "reference":
        found = cross_entropy_reference(
            hidden_TC, weight_VC, labels_T, z_weight=z_weight, softcap=softcap
        )
        return found.float()
    if way == "native" and not torch.compiler.is_compiling():
        # On a GPU how many are kept would have to be waited for; a compiler would cut its graph.
        kept = labels_T != IGNORE
        if not bool(kept.all()):
            hidden_TC, labels_T = hidden_TC[kept], labels_T[kept]
    if not torch.is_grad_enabled():
        # A Function is not told of it, and would make gradients of parameters.
        hidden_TC, weight_VC = hidden_TC.detach(), weight_VC.detach()
    loss: torch.Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_TC, weight_VC, labels_T, z_weight, softcap, way
    )
    return loss


def linear_log_probs(
    hidden_TC: torch.Tensor,
    weight_VC: torch.Tensor,
    labels_T: torch.Tensor,
    *,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """log_prob and lse of each token, (T,) fp32, of the logits hidden W^T; 0 for IGNORE.

    With gradients of both; what reaches each token is not known in the forward, so the backward
    makes the logits again.
    """
    hidden_TC, weight_VC = parts = _products(hidden_TC, weight_VC)
    way = choose("linear_log_probs", hidden_TC, lambda: dtype_refusal(parts, FLOATS))
    if way == "reference":
        found, lses = log_probs_reference(hidden_TC, weight_VC, labels_T, softcap=softcap)
        return found.float(), lses.float()
    both: tuple[torch.Tensor, torch.Tensor] = _LogProbs.apply(  # type: ignore[no-untyped-call]
        hidden_TC, weight_VC, labels_T, softcap, way
    )
    return both


def _products(
    hidden_TC: torch.Tensor, weight_VC: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As autocast would have them for a product, which it does not see inside of an op."""
    device = hidden_TC.device.type
    if not torch.is_autocast_enabled(device):
        return hidden_TC, weight_VC
    dtype = torch.get_autocast_dtype(device)
    return hidden_TC.to(dtype), weight_VC.to(dtype)


def chunk_rows(num_tokens: int, hidden_size: int, vocabulary: int) -> int:
    """Tokens whose logits are made at a time: a power of two, about T * C / V."""
    wanted = max(LEAST_CHUNK, num_tokens * hidden_size // max(1, vocabulary))
    return 1 << (wanted - 1).bit_length()


def _add_product(grad_VC: torch.Tensor, grad_logits: torch.Tensor, hidden: torch.Tensor) -> None:
    """Chunks are summed in fp32 whatever the product is rounded to."""
    if hidden.dtype == grad_VC.dtype:
        grad_VC.addmm_(grad_logits.T, hidden)
    else:
        grad_VC += grad_logits.T @ hidden


class _CrossEntropy(torch.autograd.Function):
    """The forward makes the gradients too, so that no logits are made twice."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TC: torch.Tensor,
        weight_VC: torch.Tensor,
        labels_T: torch.Tensor,
        z_weight: float,
        softcap: float | None,
        way: Way,
    ) -> torch.Tensor:
        T, C = hidden_TC.shape
        loss = hidden_TC.new_zeros((), dtype=torch.float32)
        of_hidden, of_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden_TC) if of_hidden else None
        grad_weight = torch.zeros_like(weight_VC, dtype=torch.float32) if of_weight else None
        chunk = chunk_rows(T, C, len(weight_VC))
        with torch.autocast(hidden_TC.device.type, enabled=False):
            for start in range(0, T, chunk):
                hidden, labels = hidden_TC[start : start + chunk], labels_T[start : start + chunk]
                logits = hidden @ weight_VC.T
                found, lses = log_probs(logits, labels, softcap, way)
                loss += z_weight * lses.square().sum() - found.sum()
                if not (of_hidden or of_weight):
                    continue
                of_label = torch.full_like(lses, -1)
                log_probs_grad_(logits, labels, lses, of_label, 2 * z_weight * lses, softcap, way)
                if grad_hidden is not None:
                    torch.mm(logits, weight_VC, out=grad_hidden[start : start + chunk])
                if grad_weight is not None:
                    _add_product(grad_weight, logits, hidden)
        ctx.save_for_backward(
            grad_hidden, None if grad_weight is None else grad_weight.to(weight_VC.dtype)
        )
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # In place: a copy of the weight's gradient would be as large as many chunks. torch refuses
        # a second backward then, as what was saved has changed.
        scaled = (None if kept is None else kept.mul_(grad) for kept in ctx.saved_tensors)
        return *scaled, None, None, None, None


class _LogProbs(torch.autograd.Function):
    """What reaches each token is not known in the forward: the backward makes the logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TC: torch.Tensor,
        weight_VC: torch.Tensor,
        labels_T: torch.Tensor,
        softcap: float | None,
        way: Way,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        T, C = hidden_TC.shape
        found, lses = (hidden_TC.new_empty(T, dtype=torch.float32) for _ in range(2))
        chunk = chunk_rows(T, C, len(weight_VC))
        with torch.autocast(hidden_TC.device.type, enabled=False):
            for start in range(0, T, chunk):
                part = slice(start, start + chunk)
                logits = hidden_TC[part] @ weight_VC.T
                found[part], lses[part] = log_probs(logits, labels_T[part], softcap, way)
        ctx.save_for_backward(hidden_TC, weight_VC, labels_T, lses)
        ctx.softcap, ctx.way = softcap, way
        return found, lses

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_log_probs_T: torch.Tensor, grad_lses_T: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        hidden_TC, weight_VC, labels_T, lses_T = ctx.saved_tensors
        T, C = hidden_TC.shape
        of_hidden, of_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden_TC) if of_hidden else None
        grad_weight = torch.zeros_like(weight_VC, dtype=torch.float32) if of_weight else None
        of_tokens = (grad_log_probs_T.contiguous(), grad_lses_T.contiguous())
        chunk = chunk_rows(T, C, len(weight_VC))
        with torch.autocast(hidden_TC.device.type, enabled=False):
            for start in range(0, T, chunk):
                part = slice(start, start + chunk)
                logits = hidden_TC[part] @ weight_VC.T
                of_chunk = (of_tokens[0][part], of_tokens[1][part])
                log_probs_grad_(
                    logits, labels_T[part], lses_T[part], *of_chunk, ctx.softcap, ctx.way
                )
                if grad_hidden is not None:
                    torch.mm(logits, weight_VC, out=grad_hidden[part])
                if grad_weight is not None:
                    _add_product(grad_weight, logits, hidden_TC[part])
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight_VC.dtype)
        return grad_hidden, grad_weight, None, None, None
