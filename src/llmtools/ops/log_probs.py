"""Log-probabilities of labels given logits, and their gradient written over the logits.

    T  tokens     V  vocabulary     IGNORE  a label that counts for nothing

    z = logits, or softcap * tanh(logits / softcap)
    lse = log sum exp z        log_prob = z[label] - lse

Cross-entropy is -log_prob and the z-loss of PaLM weight * lse^2. Their gradients a, of log_prob,
and b, of lse, give

    dz = (b - a) softmax(z) + a onehot(label)        dlogits = dz (1 - (z / softcap)^2)
"""

from __future__ import annotations

import torch

from llmtools.ops.path import Way

IGNORE = -100


def log_probs(
    logits_TV: torch.Tensor, labels_T: torch.Tensor, softcap: float | None, way: Way
) -> tuple[torch.Tensor, torch.Tensor]:
    """log_prob of each label and lse of each token, (T,) fp32; 0 where the label is IGNORE."""
    if way == "triton":
        both: tuple[torch.Tensor, torch.Tensor] = _op(logits_TV, labels_T, softcap)
        return both
    z = _capped(logits_TV.float(), softcap)
    kept = labels_T != IGNORE
    lses = z.logsumexp(-1).where(kept, 0.0)
    at_label = z.gather(1, labels_T.where(kept, 0)[:, None])[:, 0]
    return (at_label - lses).where(kept, 0.0), lses


def log_probs_grad_(
    logits_TV: torch.Tensor,
    labels_T: torch.Tensor,
    lses_T: torch.Tensor,
    grad_log_probs_T: torch.Tensor,
    grad_lses_T: torch.Tensor,
    softcap: float | None,
    way: Way,
) -> None:
    """Write the gradient of the logits over them; gradients of the outputs are (T,) fp32."""
    if way == "triton":
        _grad_op_(logits_TV, labels_T, lses_T, grad_log_probs_T, grad_lses_T, softcap)
        return
    kept = labels_T != IGNORE
    of_label, of_lse = (x.where(kept, 0.0)[:, None] for x in (grad_log_probs_T, grad_lses_T))
    z = _capped(logits_TV.float(), softcap)
    slope = None if softcap is None else 1 - (z / softcap).square_()
    # In fp32 without a cap, z is the logits themselves and so becomes their gradient in place.
    grad = z.sub_(lses_T[:, None]).exp_().mul_(of_lse - of_label)
    grad.scatter_add_(1, labels_T.where(kept, 0)[:, None], of_label)
    if slope is not None:
        grad.mul_(slope)
    if softcap is not None or logits_TV.dtype != grad.dtype:
        logits_TV.copy_(grad)


def _capped(logits: torch.Tensor, softcap: float | None) -> torch.Tensor:
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


@torch.library.custom_op("llmtools::log_probs", mutates_args=())
def _op(
    logits_TV: torch.Tensor, labels_T: torch.Tensor, softcap: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    from llmtools.triton_kernels import loss

    return loss.log_probs(logits_TV, labels_T, softcap=softcap, ignore=IGNORE)


@_op.register_fake
def _(
    logits_TV: torch.Tensor, labels_T: torch.Tensor, softcap: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    found, lses = (logits_TV.new_empty(len(logits_TV), dtype=torch.float32) for _ in range(2))
    return found, lses


@torch.library.custom_op("llmtools::log_probs_grad_", mutates_args=("logits_TV",))
def _grad_op_(
    logits_TV: torch.Tensor,
    labels_T: torch.Tensor,
    lses_T: torch.Tensor,
    grad_log_probs_T: torch.Tensor,
    grad_lses_T: torch.Tensor,
    softcap: float | None,
) -> None:
    from llmtools.triton_kernels import loss

    loss.log_probs_grad_(
        logits_TV, labels_T, lses_T, grad_log_probs_T, grad_lses_T, softcap=softcap, ignore=IGNORE
    )
