"""How the next token is chosen from logits, for one request.

The filters run in the order of transformers (generation/utils.py, _get_logits_processor):
temperature, top-k, top-p, min-p; each sees what the one before left, renormalised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from llmtools.errors import UsageError

# Candidates that a top-p search looks at first. Sorting all of 49,152 logits takes 3.6 ms.
FIRST_CANDIDATES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling settings of a request; UsageError names every value out of range.

    temperature: 0 takes the likeliest token. top_k: 0 keeps all. top_p: the smallest set of tokens
    with at least this probability. min_p: tokens with at least this share of the likeliest one's
    probability. seed: of this request alone; None draws one.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        mistakes = [
            message
            for is_right, message in (
                (
                    _is_number(self.temperature) and 0 <= self.temperature <= 100,
                    f"temperature is {self.temperature!r}, not a number from 0 to 100",
                ),
                (
                    _is_integer(self.top_k) and self.top_k >= 0,
                    f"top_k is {self.top_k!r}, not an integer of at least 0 (0 keeps all tokens)",
                ),
                (
                    _is_number(self.top_p) and 0 < self.top_p <= 1,
                    f"top_p is {self.top_p!r}, not above 0 and at most 1",
                ),
                (
                    _is_number(self.min_p) and 0 <= self.min_p <= 1,
                    f"min_p is {self.min_p!r}, not from 0 to 1",
                ),
                (
                    self.seed is None or (_is_integer(self.seed) and -(2**63) <= self.seed < 2**63),
                    f"seed is {self.seed!r}, not a 64-bit integer",
                ),
            )
            if not is_right
        ]
        if mistakes:
            raise UsageError("; ".join(mistakes))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Sampler:
    """Draws the tokens of one request; its random numbers depend on nothing but the seed."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def __call__(self, logits_V: torch.Tensor) -> int:
        """The next token id."""
        if self.sampling.temperature == 0:
            return int(logits_V.argmax())
        ids, probabilities = distribution(logits_V, self.sampling)
        cumulative = probabilities.cumsum(0)
        # The inverse of the cumulative sum: torch.multinomial takes 1 ms for 49,152 tokens.
        at = torch.rand((), dtype=torch.float64, generator=self._generator) * cumulative[-1].cpu()
        drawn = int(torch.searchsorted(cumulative, at.to(cumulative.device), right=True))
        return int(ids[min(drawn, len(ids) - 1)])


def distribution(logits_V: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that may follow and their probabilities, for a temperature above 0.

    returns: ids (n,) int64 and probabilities (n,) float64 that sum to 1. Where logits tie at the
    edge of top-k exactly k tokens stay (transformers keeps all of the tie).
    """
    # Relative to the likeliest, so that a temperature near 0 cannot overflow.
    scores = (logits_V.double() - logits_V.max()) / sampling.temperature
    if 0 < sampling.top_k < len(scores):
        scores, ids = scores.topk(sampling.top_k)
        probabilities = scores.softmax(0)
    elif sampling.top_p < 1:
        ids, probabilities = _likeliest(scores, sampling.top_p)
    else:
        ids = torch.arange(len(scores), device=scores.device)
        probabilities = scores.softmax(0)
    if sampling.top_p < 1:
        # Both ways here leave the likeliest first.
        kept = probabilities.cumsum(0) - probabilities < sampling.top_p
        ids, probabilities = ids[kept], probabilities[kept]
    if sampling.min_p > 0:
        kept = probabilities >= sampling.min_p * probabilities.max()
        ids, probabilities = ids[kept], probabilities[kept]
    return ids, probabilities / probabilities.sum()


def _likeliest(scores_V: torch.Tensor, mass: float) -> tuple[torch.Tensor, torch.Tensor]:
    """At least the likeliest tokens that together reach `mass`, descending, not renormalised."""
    log_total = scores_V.logsumexp(0)
    count = FIRST_CANDIDATES
    while True:
        values, ids = scores_V.topk(min(count, len(scores_V)))
        probabilities = (values - log_total).exp()
        if len(ids) == len(scores_V) or float(probabilities.sum()) >= mass:
            return ids, probabilities
        count *= 8
