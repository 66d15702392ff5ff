"""Stochastic gradient descent of a linear model over bags of rows, compiled.

One pass is fastText's (src/model.cc, src/loss.cc of 0.9.2, softmax loss) on one thread.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from llmtools.jit import kernel

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@kernel
def train_pass(
    rows: npt.NDArray[np.int32],
    starts: Integers,
    order: Integers,
    labels: Integers,
    inputs: Floats,
    outputs: Floats,
    rate: float,
    last_rate: float,
) -> float:
    """Change `inputs` (rows, dim) and `outputs` (L, dim) in place; returns the mean loss, in nats.

    rows, starts: those of every text, as text_rows gives them. order: the texts of this pass.
    labels: of every text. The rate falls from `rate` to `last_rate` in equal steps.
    """
    num_labels, dim = outputs.shape
    hidden = np.empty(dim, np.float32)
    gradient = np.empty(dim, np.float32)
    chances = np.empty(num_labels, np.float32)
    loss, seen = 0.0, 0
    for step in range(len(order)):
        text = order[step]
        first, last = starts[text], starts[text + 1]
        if first == last:
            continue
        now = np.float32(rate + (last_rate - rate) * step / len(order))
        scale = np.float32(1.0 / (last - first))
        hidden[:] = 0
        for i in range(first, last):
            for d in range(dim):
                hidden[d] += inputs[rows[i], d]
        highest = np.float32(-np.inf)
        for label in range(num_labels):
            logit = np.float32(0)
            for d in range(dim):
                logit += outputs[label, d] * hidden[d]
            chances[label] = logit * scale
            highest = max(highest, chances[label])
        total = np.float32(0)
        for label in range(num_labels):
            chances[label] = np.float32(math.exp(chances[label] - highest))
            total += chances[label]
        gradient[:] = 0
        for label in range(num_labels):
            chance = chances[label] / total
            if label == labels[text]:
                loss -= math.log(max(chance, 1e-30))
            step_size = now * (np.float32(label == labels[text]) - chance)
            for d in range(dim):
                gradient[d] += step_size * outputs[label, d]
                outputs[label, d] += step_size * scale * hidden[d]
        for d in range(dim):
            gradient[d] *= scale
        for i in range(first, last):
            for d in range(dim):
                inputs[rows[i], d] += gradient[d]
        seen += 1
    return loss / max(seen, 1)
