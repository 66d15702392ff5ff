"""The settings of a training run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

DType = Literal["bf16", "fp32"]
Schedule = Literal["cosine", "linear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How a model is trained; AdamW, one learning-rate schedule, token-normalised accumulation.

    batch_size: rows of a micro-batch; a step takes batch_size * grad_accum rows. dtype: bf16 runs
    the forward and backward under autocast, weights and optimizer stay fp32. eval_every: None
    evaluates before the first and after the last step only. keep_last: None keeps every checkpoint.
    """

    max_steps: int
    batch_size: int
    grad_accum: int = 1
    learning_rate: float
    min_lr_ratio: float
    lr_schedule: Schedule
    warmup_steps: int
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    weight_decay: float
    max_grad_norm: float = 1.0
    dtype: DType
    seed: int
    eval_every: int | None = None
    save_every: int
    keep_last: int | None = None

    @property
    def rows_per_step(self) -> int:
        return self.batch_size * self.grad_accum

    def mistakes(self) -> list[str]:
        """What is wrong with these values, all of it."""
        found = [
            f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1"
            for name in ("max_steps", "batch_size", "grad_accum", "eval_every", "save_every")
            if getattr(self, name) is not None and getattr(self, name) < 1
        ]
        if self.keep_last is not None and self.keep_last < 1:
            found.append(f"--keep-last {self.keep_last} must be at least 1")
        if not 0 < self.learning_rate < float("inf"):
            found.append(f"--learning-rate {self.learning_rate} must be positive")
        if not 0 <= self.min_lr_ratio <= 1:
            found.append(f"--min-lr-ratio {self.min_lr_ratio} must lie in 0 to 1")
        if not 0 <= self.warmup_steps <= self.max_steps:
            found.append(
                f"--warmup-steps {self.warmup_steps} must lie in 0 to --max-steps {self.max_steps}"
            )
        found += [
            f"--{name.replace('_', '-')} {getattr(self, name)} must lie in 0 to 1, 1 excluded"
            for name in ("adam_beta1", "adam_beta2")
            if not 0 <= getattr(self, name) < 1
        ]
        if not 0 <= self.seed < 1 << 31:
            found.append(f"--seed {self.seed} must lie in 0 to 2^31 - 1")
        if not 0 <= self.weight_decay < float("inf"):
            found.append(f"--weight-decay {self.weight_decay} must not be negative")
        if not self.max_grad_norm > 0:
            found.append(
                f"--max-grad-norm {self.max_grad_norm} must be positive (inf: no clipping)"
            )
        return found

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def pick_dtype(dtype: Literal["auto", "bf16", "fp32"], device: torch.device) -> DType:
    """'auto' is bf16 where the hardware multiplies it (CUDA since Ampere, AVX512_BF16, AMX).

    Elsewhere bf16 is emulated and slower than fp32.
    """
    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    is_native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bf16" if is_native else "fp32"
