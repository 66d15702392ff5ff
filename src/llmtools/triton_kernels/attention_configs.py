"""Block sizes of attention, each compiled without spills for the architectures of docs/kernels.md.

Products of the backward hold four tiles where the forward holds two, so its blocks are smaller.
Those of AMD's GPUs are smaller again: their multiprocessors have 64 KB of shared memory, and tiles
live in registers. fp32 has no matrix instructions on NVIDIA's (tl.dot is exact, not TF32), and its
small blocks are for values, not for speed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llmtools.triton_kernels import launch
from llmtools.triton_kernels.launch import Config, power_of_two


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfigs:
    """One for each kernel."""

    forward: Config
    grad_kv: Config
    grad_q: Config


def _tile(queries: int, keys: int, num_warps: int, num_stages: int = 1) -> Config:
    blocks = {"BLOCK_M": queries, "BLOCK_N": keys}
    return Config(blocks=blocks, num_warps=num_warps, num_stages=num_stages)


# By head size, up to and including.
NVIDIA = {
    64: AttentionConfigs(
        forward=_tile(128, 64, 4, 3), grad_kv=_tile(64, 64, 4), grad_q=_tile(64, 64, 4)
    ),
    128: AttentionConfigs(
        forward=_tile(128, 64, 8, 2), grad_kv=_tile(32, 64, 8, 2), grad_q=_tile(64, 64, 8, 2)
    ),
    256: AttentionConfigs(
        forward=_tile(64, 32, 8, 2), grad_kv=_tile(32, 32, 8), grad_q=_tile(32, 32, 4)
    ),
}
AMD = {
    64: AttentionConfigs(
        forward=_tile(128, 64, 8), grad_kv=_tile(64, 32, 4), grad_q=_tile(64, 64, 4)
    ),
    128: AttentionConfigs(
        forward=_tile(128, 32, 8), grad_kv=_tile(64, 16, 8), grad_q=_tile(128, 32, 8)
    ),
    256: AttentionConfigs(
        forward=_tile(64, 32, 8, 2), grad_kv=_tile(64, 16, 8), grad_q=_tile(64, 16, 8)
    ),
}
FLOAT32 = {
    64: AttentionConfigs(
        forward=_tile(32, 32, 8), grad_kv=_tile(32, 32, 8), grad_q=_tile(32, 32, 8)
    ),
    128: AttentionConfigs(
        forward=_tile(32, 32, 8), grad_kv=_tile(16, 16, 8), grad_q=_tile(32, 16, 8)
    ),
}


def attention_configs(head_dim: int, dtype: torch.dtype) -> AttentionConfigs:
    """For heads of at most limits.LARGEST_HEAD, in fp32 LARGEST_HEAD_FLOAT32, on this machine."""
    table = FLOAT32 if dtype == torch.float32 else AMD if launch.is_amd() else NVIDIA
    return table[power_of_two(head_dim, 64)]
