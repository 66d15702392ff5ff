"""Log-likelihoods of several continuations of one context, the context run once.

The tokens of a step lie in one flat dimension: each context, then its continuations one after the
other. A continuation sees its context and itself, so the same tokens are run as for each pair alone
but the context's are not repeated; the head is computed where a token is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llmtools import ops
from llmtools.engine.score import LOGIT_ROWS
from llmtools.model import Decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """context: at least one token. continuations: each at least one."""

    context: Sequence[int]
    continuations: Sequence[Sequence[int]]

    @property
    def num_positions(self) -> int:
        """Positions that run: a continuation's last token predicts nothing that is asked."""
        return len(self.context) + sum(len(c) - 1 for c in self.continuations)


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Sum of log-probabilities in nats, and whether each token was the likeliest."""

    log_likelihood: float
    is_greedy: bool


class SharedContexts:
    """The attention context of contexts and what continues them."""

    def __init__(self, items: Sequence[Choices], device: torch.device) -> None:
        self._lengths = [
            (len(item.context), [len(c) - 1 for c in item.continuations if len(c) > 1])
            for item in items
        ]
        positions = []
        for length, tails in self._lengths:
            positions.append(torch.arange(length))
            positions += [torch.arange(length, length + tail) for tail in tails]
        self._positions_T = torch.cat(positions).to(device)

    @property
    def positions_T(self) -> torch.Tensor:
        return self._positions_T

    def attend(
        self, layer: int, q_THD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor
    ) -> torch.Tensor:
        outs = []
        start = 0
        for length, tails in self._lengths:
            shared = slice(start, start + length)
            outs.append(ops.attention(q_THD[shared], k_TKD[shared], v_TKD[shared], [length]))
            start += length
            for tail in tails:
                own = slice(start, start + tail)
                keys = torch.cat((k_TKD[shared], k_TKD[own])).transpose(0, 1)
                values = torch.cat((v_TKD[shared], v_TKD[own])).transpose(0, 1)
                outs.append(ops.cached_attention(q_THD[own], keys, values))
                start += tail
        return torch.cat(outs)


@torch.inference_mode()
def score_choices(decoder: Decoder, items: Sequence[Choices]) -> list[list[Likelihood]]:
    """The likelihood of every continuation of every item, in one forward pass."""
    device = next(decoder.parameters()).device
    ids: list[int] = []
    rows: list[int] = []
    targets: list[int] = []
    counts: list[int] = []
    for item in items:
        ids += item.context
        last = len(ids) - 1
        for continuation in item.continuations:
            # The context's last position predicts the first token of each continuation.
            rows += [last, *range(len(ids), len(ids) + len(continuation) - 1)]
            ids += continuation[:-1]
            targets += continuation
            counts.append(len(continuation))
    hidden_TC = decoder(torch.tensor(ids, device=device), SharedContexts(items, device))
    scored_SC = hidden_TC[torch.tensor(rows, device=device)]
    labels_S = torch.tensor(targets, device=device)
    sums: list[torch.Tensor] = []
    greedy: list[torch.Tensor] = []
    for hidden, labels in zip(scored_SC.split(LOGIT_ROWS), labels_S.split(LOGIT_ROWS), strict=True):
        logits = decoder.logits(hidden).double()
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        sums.append(-loss)
        greedy.append(logits.argmax(-1) == labels)
    values = torch.cat(sums).split(counts)
    likeliest = torch.cat(greedy).split(counts)
    found = [
        Likelihood(float(value.sum()), bool(are.all()))
        for value, are in zip(values, likeliest, strict=True)
    ]
    ends = iter(found)
    return [[next(ends) for _ in item.continuations] for item in items]
