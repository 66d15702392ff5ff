"""The measure that tests of numbers rest on."""

from __future__ import annotations

import math

import pytest
import torch

from differences import error


def test_it_is_relative_to_the_largest_value_that_is_wanted():
    assert error(torch.tensor([100.0, 2.0]), torch.tensor([100.0, 1.0])) == pytest.approx(0.01)
    assert error(torch.tensor([0.1]), torch.tensor([0.0])) == pytest.approx(0.1)


def test_what_is_not_a_number_is_infinitely_far_wherever_it_stands():
    good, bad = torch.ones(2), torch.tensor([1.0, math.nan])
    for found in ([bad, good], [good, bad]):
        assert error(found, [good, good]) == math.inf


def test_other_shapes_and_numbers_of_results_are_refused():
    with pytest.raises(AssertionError):
        error(torch.ones(2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="argument"):
        error([torch.ones(2)], [torch.ones(2)] * 2)
