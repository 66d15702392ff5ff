"""The next-token loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F

IGNORE = -100


def cross_entropy_reference(
    hidden_TC: torch.Tensor, weight_VC: torch.Tensor, labels_T: torch.Tensor
) -> torch.Tensor:
    """The definition in float64: -log softmax(hidden W^T)[label], summed over labelled tokens."""
    log_probs = (hidden_TC.double() @ weight_VC.double().T).log_softmax(-1)
    kept = labels_T != IGNORE
    return -log_probs[kept].gather(1, labels_T[kept][:, None]).sum()


def cross_entropy(
    hidden_TC: torch.Tensor, weight_VC: torch.Tensor, labels_T: torch.Tensor
) -> torch.Tensor:
    """Sum over tokens of the negative log-likelihood of `labels_T` under softmax(hidden W^T).

    labels_T: (T,) int64; IGNORE (-100) leaves a token out, and its logits are never computed.
    returns: a scalar in fp32. Divide by the number of labels of the whole step, not of this call,
    so that the gradient does not depend on how a batch is cut into micro-batches.
    """
    kept = labels_T != IGNORE
    if not bool(kept.all()):
        hidden_TC, labels_T = hidden_TC[kept], labels_T[kept]
    logits = F.linear(hidden_TC, weight_VC)
    return F.cross_entropy(logits.float(), labels_T, reduction="sum")
