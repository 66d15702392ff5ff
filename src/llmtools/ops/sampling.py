"""Drawing the next token of each row of logits for given uniform numbers."""

from __future__ import annotations

from typing import Any

import torch

from llmtools.ops.path import FLOATS, choose, dtype_refusal


def sample(
    logits_RV: torch.Tensor,
    temperatures_R: torch.Tensor,
    top_ks_R: torch.Tensor,
    top_ps_R: torch.Tensor,
    min_ps_R: torch.Tensor,
    uniforms_R: torch.Tensor,
) -> torch.Tensor:
    """An id for each row, (R,) int64.

    temperatures, top_ps, min_ps, uniforms: fp32; top_ks: int32. A temperature of 0 takes the
    likeliest token; a top_k of 0, a top_p of 1 and a min_p of 0 keep all. The filters are applied
    in this order, each to what the one before left, renormalised: temperature, the top_k
    likeliest, the fewest likeliest that reach top_p, those of at least min_p times the likeliest.
    Of equal tokens the first ones count as likelier. The draw is the first id, in their order,
    where the cumulative probability exceeds the uniform number, in [0, 1).
    """
    settings = (temperatures_R, top_ks_R, top_ps_R, min_ps_R, uniforms_R)
    way = choose("sample", logits_RV, lambda: dtype_refusal((logits_RV,), FLOATS))
    if way == "triton":
        rows = logits_RV if logits_RV.stride(1) == 1 else logits_RV.contiguous()
        ids: torch.Tensor = _op(rows, *settings)
        return ids.long()
    return sample_reference(logits_RV, *settings)


def sample_reference(
    logits_RV: torch.Tensor,
    temperatures_R: torch.Tensor,
    top_ks_R: torch.Tensor,
    top_ps_R: torch.Tensor,
    min_ps_R: torch.Tensor,
    uniforms_R: torch.Tensor,
) -> torch.Tensor:
    """The definition in float64, see sample."""
    V = logits_RV.shape[1]
    wide = logits_RV.double()
    is_greedy = temperatures_R == 0
    scale = torch.where(is_greedy, 1.0, temperatures_R).double()[:, None]
    scores = (wide - wide.amax(1, keepdim=True)) / scale
    weights, ids = scores.exp().sort(dim=1, descending=True, stable=True)
    ranks = torch.arange(V, device=wide.device)[None]
    top_ks = torch.where(top_ks_R > 0, top_ks_R, V)[:, None]
    weights = weights * (ranks < top_ks)
    before = weights.cumsum(1) - weights
    wanted = top_ps_R.double()[:, None] * weights.sum(1, keepdim=True)
    weights = weights * ((before < wanted) | (top_ps_R >= 1)[:, None])
    weights = weights * (weights >= min_ps_R.double()[:, None])
    in_order = torch.zeros_like(weights).scatter_(1, ids, weights)
    reached = in_order.cumsum(1)
    target = uniforms_R.double()[:, None] * reached[:, -1:]
    drawn = ((reached > target) & (in_order > 0)).int().argmax(1)
    return torch.where(is_greedy, wide.argmax(1), drawn)


@torch.library.custom_op("llmtools::sample", mutates_args=())
def _op(
    logits_RV: torch.Tensor,
    temperatures_R: torch.Tensor,
    top_ks_R: torch.Tensor,
    top_ps_R: torch.Tensor,
    min_ps_R: torch.Tensor,
    uniforms_R: torch.Tensor,
) -> torch.Tensor:
    from llmtools.triton_kernels.sampling import sample

    return sample(logits_RV, temperatures_R, top_ks_R, top_ps_R, min_ps_R, uniforms_R)


@_op.register_fake
def _(logits_RV: torch.Tensor, *rest: Any) -> torch.Tensor:
    return logits_RV.new_empty(len(logits_RV), dtype=torch.int32)
