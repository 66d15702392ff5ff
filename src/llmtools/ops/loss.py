"""The next-token loss and log-probabilities of labels, fused with the product that makes logits.

Logits are made for a chunk of tokens at a time and never held for more, forward or backward (after
Liger's, Hsu et al. 2024). On a CPU that is faster too, as a chunk stays in its caches: see
benchmarks/ops.
"""

from __future__ import annotations

from typing import Any

import torch

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
    way = _way(hidden_TC, weight_VC)
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
    asked = [x.requires_grad and torch.is_grad_enabled() for x in (hidden_TC, weight_VC)]
    loss: torch.Tensor
    loss, _, _ = _cross_entropy_op(
        *_products(hidden_TC, weight_VC), labels_T, z_weight, softcap, *asked, way == "triton"
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
    way = _way(hidden_TC, weight_VC)
    if way == "reference":
        found, lses = log_probs_reference(hidden_TC, weight_VC, labels_T, softcap=softcap)
        return found.float(), lses.float()
    both: tuple[torch.Tensor, torch.Tensor] = _log_probs_op(
        *_products(hidden_TC, weight_VC), labels_T, softcap, way == "triton"
    )
    return both


def _way(hidden_TC: torch.Tensor, weight_VC: torch.Tensor) -> Way:
    parts = _products(hidden_TC, weight_VC) if hidden_TC.is_cuda else (hidden_TC, weight_VC)
    return choose("cross_entropy", hidden_TC, lambda: dtype_refusal(parts, FLOATS))


def _products(hidden_TC: torch.Tensor, weight_VC: torch.Tensor) -> tuple[torch.Tensor, ...]:
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


def _named(is_kernel: bool) -> Way:
    return "triton" if is_kernel else "native"


@torch.library.custom_op("llmtools::cross_entropy", mutates_args=())
def _cross_entropy_op(
    hidden_TC: torch.Tensor,
    weight_VC: torch.Tensor,
    labels_T: torch.Tensor,
    z_weight: float,
    softcap: float | None,
    has_hidden_grad: bool,
    has_weight_grad: bool,
    is_kernel: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss, and its gradients, made on the way so that no logits are made twice; those that
    are not asked for are empty."""
    way = _named(is_kernel)
    T, C = hidden_TC.shape
    loss = hidden_TC.new_zeros((), dtype=torch.float32)
    grad_hidden = hidden_TC.new_empty(hidden_TC.shape if has_hidden_grad else 0)
    grad_weight = hidden_TC.new_zeros(
        weight_VC.shape if has_weight_grad else 0, dtype=torch.float32
    )
    chunk = chunk_rows(T, C, len(weight_VC))
    with torch.autocast(hidden_TC.device.type, enabled=False):
        for start in range(0, T, chunk):
            hidden, labels = hidden_TC[start : start + chunk], labels_T[start : start + chunk]
            logits = hidden @ weight_VC.T
            found, lses = log_probs(logits, labels, softcap, way)
            loss += z_weight * lses.square().sum() - found.sum()
            if not (has_hidden_grad or has_weight_grad):
                continue
            of_label = torch.full_like(lses, -1)
            log_probs_grad_(logits, labels, lses, of_label, 2 * z_weight * lses, softcap, way)
            if has_hidden_grad:
                torch.mm(logits, weight_VC, out=grad_hidden[start : start + chunk])
            if has_weight_grad:
                _add_product(grad_weight, logits, hidden)
    return loss, grad_hidden, grad_weight.to(weight_VC.dtype)


def _add_product(grad_VC: torch.Tensor, grad_logits: torch.Tensor, hidden: torch.Tensor) -> None:
    """Chunks are summed in fp32 whatever the product is rounded to."""
    if hidden.dtype == grad_VC.dtype:
        grad_VC.addmm_(grad_logits.T, hidden)
    else:
        grad_VC += grad_logits.T @ hidden


@_cross_entropy_op.register_fake
def _(
    hidden_TC: torch.Tensor,
    weight_VC: torch.Tensor,
    labels_T: torch.Tensor,
    z_weight: float,
    softcap: float | None,
    has_hidden_grad: bool,
    has_weight_grad: bool,
    is_kernel: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        hidden_TC.new_empty((), dtype=torch.float32),
        hidden_TC.new_empty(hidden_TC.shape if has_hidden_grad else 0),
        weight_VC.new_empty(weight_VC.shape if has_weight_grad else 0),
    )


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.asked = inputs[5:7]
    ctx.mark_non_differentiable(*output[1:])


def _scale_gradients(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    scaled = [
        kept * grad.to(kept.dtype) if is_asked else None
        for kept, is_asked in zip(ctx.saved_tensors, ctx.asked, strict=True)
    ]
    return *scaled, *[None] * 6


_cross_entropy_op.register_autograd(_scale_gradients, setup_context=_keep_gradients)


@torch.library.custom_op("llmtools::linear_log_probs", mutates_args=())
def _log_probs_op(
    hidden_TC: torch.Tensor,
    weight_VC: torch.Tensor,
    labels_T: torch.Tensor,
    softcap: float | None,
    is_kernel: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    T, C = hidden_TC.shape
    both = hidden_TC.new_empty(2, T, dtype=torch.float32)
    chunk = chunk_rows(T, C, len(weight_VC))
    with torch.autocast(hidden_TC.device.type, enabled=False):
        for start in range(0, T, chunk):
            part = slice(start, start + chunk)
            logits = hidden_TC[part] @ weight_VC.T
            found = log_probs(logits, labels_T[part], softcap, _named(is_kernel))
            both[:, part] = torch.stack(found)
    return both[0].clone(), both[1].clone()


@_log_probs_op.register_fake
def _(hidden_TC: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    T = len(hidden_TC)
    return tuple(hidden_TC.new_empty(T, dtype=torch.float32) for _ in range(2))  # type: ignore[return-value]


@torch.library.custom_op("llmtools::linear_log_probs_backward", mutates_args=())
def _log_probs_backward_op(
    hidden_TC: torch.Tensor,
    weight_VC: torch.Tensor,
    labels_T: torch.Tensor,
    lses_T: torch.Tensor,
    grad_log_probs_T: torch.Tensor,
    grad_lses_T: torch.Tensor,
    softcap: float | None,
    is_kernel: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    T, C = hidden_TC.shape
    grad_hidden = torch.empty_like(hidden_TC)
    grad_weight = torch.zeros_like(weight_VC, dtype=torch.float32)
    chunk = chunk_rows(T, C, len(weight_VC))
    with torch.autocast(hidden_TC.device.type, enabled=False):
        for start in range(0, T, chunk):
            part = slice(start, start + chunk)
            logits = hidden_TC[part] @ weight_VC.T
            log_probs_grad_(
                logits, labels_T[part], lses_T[part], grad_log_probs_T[part], grad_lses_T[part],
                softcap, _named(is_kernel),
            )  # fmt: skip
            torch.mm(logits, weight_VC, out=grad_hidden[part])
            _add_product(grad_weight, logits, hidden_TC[part])
    return grad_hidden, grad_weight.to(weight_VC.dtype)


@_log_probs_backward_op.register_fake
def _(
    hidden_TC: torch.Tensor, weight_VC: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(hidden_TC), torch.empty_like(weight_VC)


def _keep_products(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    hidden, weight, labels, ctx.softcap, ctx.is_kernel = inputs
    ctx.save_for_backward(hidden, weight, labels, output[1])


def _remake(
    ctx: Any, grad_log_probs_T: torch.Tensor, grad_lses_T: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    grads = _log_probs_backward_op(
        *ctx.saved_tensors, grad_log_probs_T.contiguous(), grad_lses_T.contiguous(),
        ctx.softcap, ctx.is_kernel,
    )  # fmt: skip
    return *grads, None, None, None


_log_probs_op.register_autograd(_remake, setup_context=_keep_products)
