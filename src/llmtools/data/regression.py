"""A linear model over embedding vectors: ridge for ratings, logistic for yes and no.

FineWeb-Edu's classifier is one: a rating by a large model, regressed on the vectors of a small one.
Stored as safetensors: `weights` (D,) and `bias` (1,), both float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from llmtools.data.agreement import area_under_curve, explained, rank_correlation
from llmtools.errors import InputError, UsageError
from llmtools.formats import tensor_header

FORMAT = "llmtools/regression@1"
BLOCK_ROWS = 1 << 14
# Of vectors and weights: the squares of vectors and the sums of products stay finite.
MAX_NUMBER = 1e60
MAX_NEWTON_STEPS = 50
TOLERANCE = 1e-9

# The vectors (N, D) of some texts.
Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]
Link = Literal["linear", "logistic"]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """The score of a vector v: v . weights + bias, for `logistic` through the logistic function.

    encoder: the model whose vectors it takes, '' where they were given as a file.
    """

    weights: Numbers
    bias: float
    link: Link
    encoder: str = ""

    def scores(self, vectors: npt.NDArray[Any]) -> Numbers:
        """Of (N, D) vectors, (N,); each sum in an order that does not depend on N."""
        found = (vectors.astype(np.float64) * self.weights).sum(axis=1) + self.bias
        return logistic(found) if self.link == "logistic" else found


def logistic(values: Numbers) -> Numbers:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0, -values))


def fit(vectors: npt.NDArray[Any], targets: Numbers, link: Link, l2: float) -> Regression:
    """The weights of least loss, mean over the vectors, plus l2 / 2 times their squared length.

    vectors: (N, D). targets: (N,), for `logistic` 0 or 1. Loss: half the squared error, or the
    cross entropy. The penalty is on columns of variance 1, and the bias has none. Raises InputError
    for targets that cannot be, or vectors that are not finite.
    """
    if not 0 <= l2 < np.inf:
        raise UsageError(f"--l2 {l2}: a number from 0")
    if link == "logistic" and l2 == 0:
        # Labels that the vectors divide without error would ask for endless weights.
        raise UsageError("--l2 0: --link logistic needs one above 0")
    if link == "logistic" and not np.isin(targets, (0, 1)).all():
        wrong = targets[~np.isin(targets, (0, 1))][0]
        raise InputError(f"a label is {wrong:g}; --link logistic takes 0 and 1 (false and true)")
    if np.ptp(targets) == 0:
        raise InputError(f"all labels are {targets[0]:g}: there is nothing to learn")
    mean, scale = _moments(vectors)
    # Columns of variance 1, and behind them the bias.
    penalty = np.full(len(mean) + 1, l2)
    penalty[-1] = 0
    solution = np.zeros(len(mean) + 1)
    for _ in range(MAX_NEWTON_STEPS if link == "logistic" else 1):
        gradient, curvature = penalty * solution, np.diag(penalty)
        for start in range(0, len(vectors), BLOCK_ROWS):
            block = _standard(vectors[start : start + BLOCK_ROWS], mean, scale)
            now = block @ solution
            weight = np.ones(len(block))
            if link == "logistic":
                now = logistic(now)
                weight = now * (1 - now)
            error = now - targets[start : start + BLOCK_ROWS]
            gradient += block.T @ error / len(vectors)
            curvature += (block * weight[:, None]).T @ block / len(vectors)
        step = np.linalg.lstsq(curvature, gradient, rcond=1e-12)[0]
        solution -= step
        if np.abs(step).max() < TOLERANCE:
            break
    weights = solution[:-1] / scale
    return Regression(weights=weights, bias=float(solution[-1] - mean @ weights), link=link)


def _moments(vectors: npt.NDArray[Any]) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation of the columns, 1 where they are constant."""
    total = np.zeros((2, vectors.shape[1]))
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = vectors[start : start + BLOCK_ROWS].astype(np.float64)
        bad = np.flatnonzero(~(np.abs(block) <= MAX_NUMBER).all(axis=1))
        if len(bad):
            raise InputError(
                f"vector {start + int(bad[0])} has a number that is not finite, or beyond"
                f" {MAX_NUMBER:g}"
            )
        total[0] += block.sum(axis=0)
    mean = total[0] / len(vectors)
    for start in range(0, len(vectors), BLOCK_ROWS):
        total[1] += ((vectors[start : start + BLOCK_ROWS] - mean) ** 2).sum(axis=0)
    scale = np.sqrt(total[1] / len(vectors))
    scale[scale <= 1e-12 * np.abs(mean)] = 1
    scale[scale == 0] = 1
    return mean, scale


def _standard(block: npt.NDArray[Any], mean: Numbers, scale: Numbers) -> Numbers:
    columns = (block.astype(np.float64) - mean) / scale
    return np.concatenate([columns, np.ones((len(block), 1))], axis=1)


def judge(model: Regression, vectors: npt.NDArray[Any], targets: Numbers) -> dict[str, float]:
    """How well the scores of vectors held out agree with their labels."""
    found = model.scores(vectors)
    if model.link == "logistic":
        positive = targets == 1
        return {
            "accuracy": float(((found >= 0.5) == positive).mean()),
            "auc": area_under_curve(found, positive),
        }
    return {"r2": explained(found, targets), "spearman": rank_correlation(found, targets)}


def dump_regression(model: Regression) -> Iterator[bytes | memoryview]:
    """The file of a model, in pieces."""
    arrays: dict[str, np.ndarray] = {"weights": model.weights, "bias": np.array([model.bias])}
    metadata = {"format": FORMAT, "link": model.link, "encoder": model.encoder}
    return tensor_header.dump(arrays, metadata)


def load_regression(path: Path) -> Regression:
    """A model's file; raises InputError for one that is damaged or something else."""
    where = str(path)
    with open(path, "rb") as file:
        header = tensor_header.read_header(file, where)
        if header is None or header.metadata.get("format") != FORMAT:
            raise InputError(f"{where}: not a regression ({FORMAT})")
        data = tensor_header.read_exactly(file, header.data_bytes, where)
    arrays = {name: tensor_header.view(entry, data) for name, entry in header.tensors.items()}
    weights, bias = arrays.get("weights"), arrays.get("bias")
    link = header.metadata.get("link")
    if (
        weights is None
        or bias is None
        or weights.ndim != 1
        or bias.shape != (1,)
        or {weights.dtype.name, bias.dtype.name} != {"float64"}
        or link not in get_args(Link)
        or not (np.abs(weights) <= MAX_NUMBER).all()
        or not (np.abs(bias) <= MAX_NUMBER).all()
    ):
        raise InputError(f"{where}: its weights, bias or link are not those of a regression")
    return Regression(
        weights=weights,
        bias=float(bias[0]),
        link="logistic" if link == "logistic" else "linear",
        encoder=header.metadata.get("encoder", ""),
    )
