"""Kernels compiled ahead of time: what GPUs that are not here would load.

The forward of attention alone so far; docs/log.md says what the backward still lacks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compiled import TARGETS, Launch, Resources, compile_for, recorded

from llmtools.triton_kernels.attention import attention_forward
from llmtools.triton_kernels.launch import Config
from llmtools.triton_kernels.masking import Masking

NVIDIA = ("sm_80", "sm_90", "sm_100")
# Warps of a multiprocessor that must find room at once.
LEAST_WARPS = 8


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def forward(head_dim: int, config: Config | None = None) -> Launch:
    def call() -> None:
        q, k, v = (
            torch.empty(4096, heads, head_dim, dtype=torch.bfloat16, device="meta")
            for heads in (32, 8, 8)
        )
        places = torch.empty(9, dtype=torch.int32, device="meta")
        attention_forward(q, k, v, places, places, 1024, Masking(), head_dim**-0.5, config)

    (launch,) = recorded(call)
    return launch


def faults(found: Resources, target: str) -> list[str]:
    """What is wrong with a compiled kernel whose products should be matrix instructions."""
    limits = TARGETS[target]
    return [
        fault
        for fault, is_so in {
            "spills": found.spills > 0,
            "shared memory": found.shared_bytes > limits.shared_bytes,
            "no matrix instructions": found.matrix == 0,
            "occupancy": found.warps_held < LEAST_WARPS,
        }.items()
        if is_so
    ]


@pytest.mark.parametrize("target", NVIDIA)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_the_forward_fits_and_multiplies_by_matrix_instructions(head_dim, target):
    found = compile_for(forward(head_dim), TARGETS[target])
    assert faults(found, target) == [], found


def test_a_configuration_that_spills_is_caught():
    config = Config(blocks={"BLOCK_M": 128, "BLOCK_N": 128}, num_warps=4, num_stages=2)
    found = compile_for(forward(128, config), TARGETS["sm_80"])
    assert "spills" in faults(found, "sm_80"), found


def test_a_configuration_that_takes_too_much_shared_memory_is_caught():
    config = Config(blocks={"BLOCK_M": 128, "BLOCK_N": 64}, num_warps=8, num_stages=4)
    found = compile_for(forward(256, config), TARGETS["sm_80"])
    assert "shared memory" in faults(found, "sm_80"), found
