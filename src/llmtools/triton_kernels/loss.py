"""Log-probabilities of labels, from logits or fused with the product that makes them.

    T  tokens     C  hidden size     V  vocabulary     IGNORE  a label that counts for nothing

    z = logits, or softcap * tanh(logits / softcap)
    lse = log sum exp z        log_prob = z[label] - lse

Every loss of one label a token is made of these two: cross-entropy is -log_prob, the z-loss of
PaLM is weight * lse^2, and preference losses sum log_probs. Their gradients a, of log_prob, and b,
of lse, give

    dz = (b - a) softmax(z) + a onehot(label)        dlogits = dz (1 - (z / softcap)^2)

which is written over the logits. The fused form makes the logits of a chunk of tokens at a time
and never holds more, forward or backward (after Liger's, Hsu et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from llmtools.triton_kernels.launch import power_of_two

# A chunk's logits are about as many as the hidden states of all tokens, but at least these rows.
LEAST_CHUNK = 256
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


def chunk_rows(num_tokens: int, hidden_size: int, vocabulary: int) -> int:
    """Tokens whose logits are made at a time: a power of two, about T * C / V."""
    wanted = max(LEAST_CHUNK, num_tokens * hidden_size // max(1, vocabulary))
    return 1 << (wanted - 1).bit_length()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLoss:
    """Sums over tokens, fp32, and gradients of their total, None where none were asked for."""

    cross_entropy: torch.Tensor
    z_loss: torch.Tensor
    grad_hidden_TC: torch.Tensor | None
    grad_weight_VC: torch.Tensor | None


def linear_cross_entropy(
    hidden_TC: torch.Tensor,
    weight_VC: torch.Tensor,
    labels_T: torch.Tensor,
    *,
    ignore: int,
    z_weight: float = 0.0,
    softcap: float | None = None,
    has_gradient: bool = True,
    chunk: int | None = None,
) -> LinearLoss:
    """Cross-entropy and z_weight * lse^2 of hidden W^T, summed over labelled tokens.

    Gradients are of the sum of both and made on the way, so that no logits are made twice; a
    caller scales them by what reaches the loss.
    """
    T, C = hidden_TC.shape
    chunk = chunk or chunk_rows(T, C, len(weight_VC))
    sums = hidden_TC.new_zeros(2, dtype=torch.float32)
    grad_hidden = torch.empty_like(hidden_TC) if has_gradient else None
    grad_weight = torch.zeros_like(weight_VC, dtype=torch.float32) if has_gradient else None
    for start in range(0, T, chunk):
        hidden, labels = hidden_TC[start : start + chunk], labels_T[start : start + chunk]
        logits = hidden @ weight_VC.T
        found, lses = log_probs(logits, labels, softcap=softcap, ignore=ignore)
        sums += torch.stack([-found.sum(), z_weight * lses.square().sum()])
        if grad_hidden is None or grad_weight is None:
            continue
        log_probs_grad_(
            logits, labels, lses, torch.full_like(lses, -1), 2 * z_weight * lses,
            softcap=softcap, ignore=ignore,
        )  # fmt: skip
        torch.mm(logits, weight_VC, out=grad_hidden[start : start + chunk])
        grad_weight += logits.T @ hidden
    return LinearLoss(
        cross_entropy=sums[0],
        z_loss=sums[1],
        grad_hidden_TC=grad_hidden,
        grad_weight_VC=None if grad_weight is None else grad_weight.to(weight_VC.dtype),
    )


def linear_log_probs(
    hidden_TC: torch.Tensor,
    weight_VC: torch.Tensor,
    labels_T: torch.Tensor,
    *,
    ignore: int,
    softcap: float | None = None,
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """log_prob and lse of each token, (T,) fp32, of the logits hidden W^T."""
    T, C = hidden_TC.shape
    chunk = chunk or chunk_rows(T, C, len(weight_VC))
    parts = [
        log_probs(hidden @ weight_VC.T, labels, softcap=softcap, ignore=ignore)
        for hidden, labels in zip(hidden_TC.split(chunk), labels_T.split(chunk), strict=True)
    ]
    found, lses = zip(*parts, strict=True)
    return torch.cat(found), torch.cat(lses)


def linear_log_probs_backward(
    hidden_TC: torch.Tensor,
    weight_VC: torch.Tensor,
    labels_T: torch.Tensor,
    lses_T: torch.Tensor,
    grad_log_probs_T: torch.Tensor,
    grad_lses_T: torch.Tensor,
    *,
    ignore: int,
    softcap: float | None = None,
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of hidden and weight. Logits are made again: what reaches each token was not
    known in the forward, and holding them is what this avoids."""
    T, C = hidden_TC.shape
    chunk = chunk or chunk_rows(T, C, len(weight_VC))
    grad_hidden = torch.empty_like(hidden_TC)
    grad_weight = torch.zeros_like(weight_VC, dtype=torch.float32)
    for start in range(0, T, chunk):
        part = slice(start, start + chunk)
        logits = hidden_TC[part] @ weight_VC.T
        log_probs_grad_(
            logits, labels_T[part], lses_T[part], grad_log_probs_T[part], grad_lses_T[part],
            softcap=softcap, ignore=ignore,
        )  # fmt: skip
        torch.mm(logits, weight_VC, out=grad_hidden[part])
        grad_weight += logits.T @ hidden_TC[part]
    return grad_hidden, grad_weight.to(weight_VC.dtype)
