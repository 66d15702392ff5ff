"""Log-probabilities of labels from logits, and their gradients.

    T  tokens     V  vocabulary     IGNORE  a label that counts for nothing

    z = logits, or softcap * tanh(logits / softcap)
    lse = log sum exp z        log_prob = z[label] - lse

Every loss of one label a token is made of these two: cross-entropy is -log_prob, the z-loss of
PaLM is weight * lse^2, and preference losses sum log_probs. Their gradients a, of log_prob, and b,
of lse, give

    dz = (b - a) softmax(z) + a onehot(label)        dlogits = dz (1 - (z / softcap)^2)

which is written over the logits. ops.loss fuses them with the product that makes the logits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmtools.triton_kernels.launch import power_of_two

BLOCK = 4096


@triton.jit
def _capped(logits, softcap, SOFTCAP: tl.constexpr):
    """z, and its derivative by the logits."""
    if SOFTCAP:
        tanh = 2 * tl.sigmoid(2 * logits / softcap) - 1
        z, slope = softcap * tanh, 1 - tanh * tanh
    else:
        z, slope = logits, 1.0
    return z, slope


@triton.jit
def log_probs_kernel(
    LOGITS, LABELS, LOG_PROBS, LSES, size, softcap, row_stride,
    IGNORE: tl.constexpr, SOFTCAP: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """One token: the vocabulary in blocks, with a running maximum."""
    token = tl.program_id(0).to(tl.int64)
    row = LOGITS + token * row_stride
    lanes = tl.arange(0, BLOCK_V)
    top = tl.full([], float("-inf"), tl.float32)
    total = tl.zeros([], tl.float32)
    for start in range(0, size, BLOCK_V):
        cols = start + lanes
        logits = tl.load(row + cols, mask=cols < size, other=0.0).to(tl.float32)
        z, _ = _capped(logits, softcap, SOFTCAP)
        z = tl.where(cols < size, z, float("-inf"))
        new_top = tl.maximum(top, tl.max(z, 0))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        total = total * tl.exp(top - base) + tl.sum(tl.exp(z - base), 0)
        top = new_top
    lse = top + tl.log(total)
    label = tl.load(LABELS + token)
    is_kept = label != IGNORE
    at_label = tl.load(row + tl.where(is_kept, label, 0)).to(tl.float32)
    z, _ = _capped(at_label, softcap, SOFTCAP)
    tl.store(LSES + token, tl.where(is_kept, lse, 0.0))
    tl.store(LOG_PROBS + token, tl.where(is_kept, z - lse, 0.0))


@triton.jit
def log_probs_grad_kernel(
    LOGITS, LABELS, LSES, GRAD_LOG_PROBS, GRAD_LSES, size, softcap, row_stride,
    IGNORE: tl.constexpr, SOFTCAP: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """A block of the vocabulary of one token: logits become their gradients."""
    token = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    at = LOGITS + token * row_stride + cols
    label = tl.load(LABELS + token)
    of_label, of_lse = tl.load(GRAD_LOG_PROBS + token), tl.load(GRAD_LSES + token)
    logits = tl.load(at, mask=cols < size, other=0.0).to(tl.float32)
    z, slope = _capped(logits, softcap, SOFTCAP)
    probs = tl.exp(z - tl.load(LSES + token))
    grad = (of_lse - of_label) * probs + tl.where(cols == label, of_label, 0.0)
    grad = tl.where(label == IGNORE, 0.0, grad * slope)
    tl.store(at, grad.to(LOGITS.dtype.element_ty), mask=cols < size)


def log_probs(
    logits_TV: torch.Tensor, labels_T: torch.Tensor, *, softcap: float | None, ignore: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """log_prob of each label and lse of each token, (T,) fp32; 0 where the label is `ignore`.

    labels: int64, 0 .. V - 1 or `ignore`; rows of logits are contiguous.
    """
    T, V = logits_TV.shape
    found, lses = (torch.empty(T, dtype=torch.float32, device=logits_TV.device) for _ in range(2))
    if T:
        block = min(BLOCK, power_of_two(V))
        log_probs_kernel[(T,)](
            logits_TV, labels_T, found, lses, V, softcap or 1.0, logits_TV.stride(0),
            IGNORE=ignore, SOFTCAP=softcap is not None, BLOCK_V=block, num_warps=8,
        )  # fmt: skip
    return found, lses


def log_probs_grad_(
    logits_TV: torch.Tensor,
    labels_T: torch.Tensor,
    lses_T: torch.Tensor,
    grad_log_probs_T: torch.Tensor,
    grad_lses_T: torch.Tensor,
    *,
    softcap: float | None,
    ignore: int,
) -> None:
    """Write the gradient of the logits over them; gradients of the outputs are (T,) fp32."""
    T, V = logits_TV.shape
    if T:
        block = min(BLOCK, power_of_two(V))
        log_probs_grad_kernel[(T, triton.cdiv(V, block))](
            logits_TV, labels_T, lses_T, grad_log_probs_T, grad_lses_T, V, softcap or 1.0,
            logits_TV.stride(0),
            IGNORE=ignore, SOFTCAP=softcap is not None, BLOCK_V=block, num_warps=8,
        )  # fmt: skip
