"""Low-rank adaptation (Hu et al. 2021): y = x W^T + b + scale * dropout(x) A^T B^T, W frozen.

r rank, in / out the sizes of the adapted matrix: A is (r, in), B is (out, r).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from llmtools.model.layers import Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Shape of an adapter; names are PEFT's (LoraConfig).

    target_modules: last names of the adapted layers. rank_scaled: scale by alpha / sqrt(r)
    (rsLoRA, Kalajdzievski 2023) where LoRA has alpha / r.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()
    rank_scaled: bool = False

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.r) if self.rank_scaled else self.r)


class LoraLinear(Linear):
    """A Linear whose weight keeps its name and stays frozen, with a trainable low-rank term."""

    def __init__(self, base: Linear, config: LoraConfig) -> None:
        with torch.device("meta"):
            super().__init__(base.in_features, base.out_features, bias=base.bias is not None)
        self.weight, self.bias = base.weight, base.bias
        device = base.weight.device
        # Adapters train in fp32 whatever the type of the frozen weight.
        self.lora_A = nn.Linear(base.in_features, config.r, bias=False, device=device)
        self.lora_B = nn.Linear(config.r, base.out_features, bias=False, device=device)
        self.dropout = nn.Dropout(config.dropout)
        self.scale = config.scale

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """A uniform as in nn.Linear (PEFT's default), B zero: the adapter starts as no change."""
        values = torch.empty(self.lora_A.weight.shape)
        nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=generator)
        self.lora_A.weight.copy_(values)
        self.lora_B.weight.zero_()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        y = super().forward(input)
        x = self.dropout(input.to(self.lora_A.weight.dtype))
        change: torch.Tensor = self.lora_B(self.lora_A(x)) * self.scale
        return y + change.to(y.dtype)


def merged_weight(
    weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
) -> torch.Tensor:
    """weight (out, in) + scale * B A, computed in fp32, in the weight's dtype."""
    wide = weight.float() + scale * (b.float() @ a.float())
    return wide.to(weight.dtype)
