"""Statistics of scores and of the difference between two models on the same examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
# Draws at once: 10,000 draws of 10,042 examples would be 800 MB.
_CHUNK_NUMBERS = 1 << 22


def mean_stderr(values: Sequence[float]) -> float:
    """Standard error of a mean: sample standard deviation / sqrt(n); 0 for less than two."""
    n = len(values)
    if n < 2:
        return 0.0
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact McNemar test: p of a split at least this uneven, if both were as good.

    only_a, only_b: examples that one model alone got right (McNemar 1947; the exact form is the
    binomial test of only_a in only_a + only_b at 1/2).
    """
    n, least = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, k) for k in range(least + 1))
    return min(1.0, float(2 * tail / 2**n)) if n else 1.0


def bootstrap_interval(
    differences: np.ndarray, *, level: float = 0.95, draws: int = DRAWS, seed: int = 1
) -> tuple[float, float]:
    """Percentile interval of the mean of paired differences, examples drawn with replacement."""
    generator = np.random.default_rng(seed)
    n = len(differences)
    chunk = max(1, _CHUNK_NUMBERS // n)
    means = [
        differences[generator.integers(0, n, (min(chunk, draws - start), n))].mean(axis=1)
        for start in range(0, draws, chunk)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: how significant each is among all (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[at]))
        adjusted[at] = running
    return adjusted


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """B against A on one task and metric. interval: 95 % of the difference, paired bootstrap.

    p: exact McNemar; p_holm: the same adjusted for all comparisons made together.
    """

    task: str
    metric: str
    n: int
    a: float
    b: float
    only_a: int
    only_b: int
    interval: tuple[float, float]
    p: float
    p_holm: float

    @property
    def difference(self) -> float:
        return self.b - self.a
