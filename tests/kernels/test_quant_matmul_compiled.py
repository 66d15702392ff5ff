"""Products with packed weights, compiled ahead of time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compiled import TARGETS, Launch, compile_for, recorded

from llmtools.triton_kernels.launch import Config
from llmtools.triton_kernels.quant_matmul import quant_matmul

LEAST_WARPS = 8


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def launches(rows: int, bits: int, kind: str, config: Config | None = None) -> list[Launch]:
    """Of a 4096 x 4096 weight in groups of 64."""

    def meta(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    def call() -> None:
        quant_matmul(
            meta(rows, 4096, dtype=torch.bfloat16),
            meta(4096 * bits // 8, 4096, dtype=torch.uint8),
            meta(64, 4096, dtype=torch.float16),
            meta(64, 4096, dtype=torch.float16) if kind == "zeros" else None,
            meta(16, dtype=torch.float32) if kind == "table" else None,
            None,
            bits=bits,
            group_size=64,
            config=config,
        )

    return recorded(call)


@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize(
    ("rows", "bits", "kind"), [(1, 4, "zeros"), (16, 4, "table"), (512, 4, "zeros")]
)
def test_products_fit_and_are_matrix_instructions(rows, bits, kind, target):
    limits = TARGETS[target]
    if target == "sm_90" and rows < 64:
        # HGMMA multiplies 64 rows at least.
        limits = replace(limits, matrix="HMMA")
    found = compile_for(launches(rows, bits, kind)[0], limits)
    assert found.spills == 0 and found.warps_held >= LEAST_WARPS, found
    assert found.shared_bytes <= limits.shared_bytes, found
    assert (found.matrix > 0) == (rows > 1), found


def test_a_tile_that_spills_is_caught():
    config = Config(blocks={"BLOCK_M": 128, "BLOCK_N": 128}, num_warps=4, num_stages=3)
    assert compile_for(launches(512, 4, "zeros", config)[0], TARGETS["sm_80"]).spills > 0


def test_few_tiles_are_split_and_added_in_a_second_launch():
    assert [launch.name for launch in launches(1, 4, "zeros")] == [
        "quant_gemv_kernel",
        "add_splits_kernel",
    ]
    assert len(launches(4096, 4, "zeros")) == 1
