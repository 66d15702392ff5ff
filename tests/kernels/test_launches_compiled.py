"""Every kernel beside attention, compiled ahead of time for GPUs that are not here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from compiled import TARGETS, compile_for, recorded
from launches import CASES, product
from triton.compiler.errors import CompilationError

from llmtools.triton_kernels.launch import Config

# Warps of a multiprocessor that must find room at once.
LEAST_WARPS = 8


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize("name", list(CASES))
def test_it_fits_and_its_products_are_matrix_instructions(name, target):
    case, limits = CASES[name], TARGETS[target]
    if target in case.without:
        with pytest.raises(CompilationError, match="not supported"):
            compile_for(recorded(case.call)[0], limits)
        return
    if target == "sm_90" and case.is_short:
        limits = replace(limits, matrix="[HIQ]G?MMA")
    launches = recorded(case.call)
    assert launches
    for launch in launches:
        found = compile_for(launch, limits)
        assert found.spills == 0 and found.warps_held >= LEAST_WARPS, (launch.name, found)
        assert found.shared_bytes <= limits.shared_bytes, (launch.name, found)
    first = compile_for(launches[0], limits)
    assert (first.matrix > 0) == case.has_products, first


def test_a_tile_that_spills_is_caught():
    config = Config(blocks={"BLOCK_M": 128, "BLOCK_N": 128}, num_warps=4, num_stages=3)
    (launch,) = recorded(lambda: product(4096, 4, "zeros", config))
    assert compile_for(launch, TARGETS["sm_80"]).spills > 0


def test_few_tiles_are_split_and_added_in_a_second_launch():
    names = [launch.name for launch in recorded(CASES["quantized, one row"].call)]
    assert names == ["quant_gemv_kernel", "add_splits_kernel"]
    assert len(recorded(lambda: product(4096, 4, "zeros"))) == 1
