"""How well scores agree with what they should be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


def area_under_curve(scores: Numbers, is_positive: npt.NDArray[np.bool_]) -> float:
    """The chance that a positive example scores above a negative one, ties half; NaN without both.

    Mann and Whitney's U over the number of pairs.
    """
    positives = int(is_positive.sum())
    negatives = len(scores) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = mean_ranks(scores)
    above = float(ranks[is_positive].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def mean_ranks(values: Numbers) -> Numbers:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[place]


def macro_area(scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """The mean over the labels of the area of one against the rest; scores: (D, L).

    Labels that no example has, or all have, are left out; of two labels the areas are equal.
    """
    areas = [
        area_under_curve(scores[:, label].astype(np.float64), labels == label)
        for label in range(scores.shape[1])
    ]
    known = [area for area in areas if not np.isnan(area)]
    return float(np.mean(known)) if known else float("nan")


def explained(found: Numbers, expected: Numbers) -> float:
    """R squared: 1 - squared error / variance; NaN where all that was expected is equal."""
    spread = float(((expected - expected.mean()) ** 2).sum())
    return 1 - float(((found - expected) ** 2).sum()) / spread if spread > 0 else float("nan")


def rank_correlation(found: Numbers, expected: Numbers) -> float:
    """Spearman's rho; NaN where one side is constant."""
    if np.ptp(found) == 0 or np.ptp(expected) == 0:
        return float("nan")
    return float(np.corrcoef(mean_ranks(found), mean_ranks(expected))[0, 1])
