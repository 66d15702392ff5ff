"""The learning rate as a pure function of the step, so that resuming needs no state."""

from __future__ import annotations

import math

from llmtools.train.settings import TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The rate of step 1 <= step <= max_steps.

    Linear warm-up reaches the peak at step `warmup_steps` (at step 1 without). Cosine or linear
    decay would reach min_lr_ratio * peak one step after the last, so that no step has rate 0.
    """
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if step <= warmup:
        return peak * step / warmup
    first = max(warmup, 1)
    progress = (step - first) / (settings.max_steps + 1 - first)
    if settings.lr_schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        share = 1 - progress
    return peak * (settings.min_lr_ratio + (1 - settings.min_lr_ratio) * share)
