"""The learning rate as a pure function of the step, so that resuming needs no state."""

from __future__ import annotations

import math

from llmtools.train.settings import TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The rate of step 1 <= step <= max_steps.

    Linear warm-up reaches the peak at step `warmup_steps`; then cosine or linear decay reaches
    min_lr_ratio * peak at the last step.
    """
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if step <= warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(settings.max_steps - warmup, 1)
    if settings.lr_schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        share = 1 - progress
    return peak * (settings.min_lr_ratio + (1 - settings.min_lr_ratio) * share)
