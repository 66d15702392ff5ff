"""Sampling from filtered distributions."""

from __future__ import annotations

import pytest
import torch

from llmtools.engine.sampling import Sampler, Sampling, distribution


def logits(seed: int = 0, size: int = 5000) -> torch.Tensor:
    return 3 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_temperature_zero_is_the_argmax() -> None:
    assert Sampler(Sampling())(logits()) == int(logits().argmax())


@pytest.mark.parametrize(
    "settings", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}, {"temperature": 1e-9}]
)
def test_the_narrowest_filters_leave_the_likeliest(settings: dict[str, float]) -> None:
    sampling = Sampling(**({"temperature": 1.0} | settings))  # type: ignore[arg-type]
    ids, probabilities = distribution(logits(), sampling)
    assert int(ids[probabilities.argmax()]) == int(logits().argmax())
    assert float(probabilities.max()) == pytest.approx(1.0)


def test_a_flat_distribution_searches_the_whole_vocabulary_for_its_nucleus() -> None:
    ids, _ = distribution(torch.zeros(5000), Sampling(temperature=1.0, top_p=0.9))
    assert len(ids) == pytest.approx(4500, abs=1)


def test_draws_follow_the_probabilities() -> None:
    sampling = Sampling(temperature=0.7, top_k=8, top_p=0.95, seed=3)
    ids, probabilities = distribution(logits(), sampling)
    sampler = Sampler(sampling)
    counts = dict.fromkeys(ids.tolist(), 0)
    for _ in range(4000):
        counts[sampler(logits())] += 1
    seen = torch.tensor(list(counts.values()), dtype=torch.float64)
    chi_square = ((seen - 4000 * probabilities) ** 2 / (4000 * probabilities)).sum()
    # The 99.9 % point for 7 degrees of freedom.
    assert float(chi_square) < 24.3


def test_a_seed_fixes_the_draws_and_no_seed_does_not() -> None:
    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(temperature=2.0, seed=seed))
        return [sampler(logits()) for _ in range(20)]

    assert draws(5) == draws(5) != draws(6)
    assert draws(None) != draws(None)
