"""Kernels compiled ahead of time: what GPUs that are not here would load.

What was compiled is cached by digest of a kernel's source, its configuration and the compiler.
"""

from __future__ import annotations

import pytest
from compiled import SMALL_TARGETS, TARGETS, cache_compiled, compile_for, faults, recorded
from launches import CASES, LEAST_WARPS, MATRIX, Case, forward, product
from triton.compiler.errors import CompilationError

from llmtools.triton_kernels.launch import Config


@pytest.fixture(autouse=True)
def cached(monkeypatch: pytest.MonkeyPatch) -> None:
    cache_compiled(monkeypatch.setenv)


def check(case: Case, name: str) -> None:
    """Every kernel of a case fits the target, and multiplies by its matrix instructions."""
    target = (TARGETS | SMALL_TARGETS)[name]
    launches = recorded(case.call, target)
    assert launches
    if name in case.without:
        with pytest.raises(CompilationError, match="not supported"):
            compile_for(launches[0], target)
        return
    for launch in launches:
        found = compile_for(launch, case.limits(target))
        wrong = faults(found, target, LEAST_WARPS, has_products=case.has_products(launch, target))
        assert wrong == [], (launch.name, found)


@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize("name", list(CASES))
def test_it_fits_and_its_products_are_matrix_instructions(name, target):
    check(CASES[name], target)


@pytest.mark.soak
@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize("name", list(MATRIX))
def test_other_configurations_fit_too(name, target):
    check(MATRIX[name], target)


@pytest.mark.soak
@pytest.mark.parametrize("target", list(SMALL_TARGETS))
@pytest.mark.parametrize("name", list(CASES))
def test_it_fits_consumers_gpus(name, target):
    check(CASES[name], target)


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (lambda config: forward(128, config=config), "spills"),
        (lambda config: product(4096, 4, "zeros", config), "spills"),
    ],
)
def test_a_configuration_that_spills_is_caught(call, fault):
    config = Config(blocks={"BLOCK_M": 128, "BLOCK_N": 128}, num_warps=4, num_stages=2)
    (launch,) = recorded(lambda: call(config))
    target = TARGETS["sm_80"]
    found = faults(compile_for(launch, target), target, LEAST_WARPS, has_products=True)
    assert any(fault in one for one in found), found


def test_a_configuration_that_takes_too_much_shared_memory_is_caught():
    config = Config(blocks={"BLOCK_M": 128, "BLOCK_N": 64}, num_warps=8, num_stages=4)
    (launch,) = recorded(lambda: forward(256, config=config))
    target = TARGETS["sm_80"]
    found = faults(compile_for(launch, target), target, LEAST_WARPS, has_products=True)
    assert "too much shared memory" in found, found


def test_products_that_are_no_matrix_instructions_are_caught():
    (launch,) = recorded(CASES["attention"].call)
    found = compile_for(launch, TARGETS["sm_80"])
    assert faults(found, TARGETS["sm_80"], LEAST_WARPS, has_products=True) == []
    assert faults(found, TARGETS["sm_80"], LEAST_WARPS, has_products=False) == [
        "matrix instructions where there is no product"
    ]


def test_few_tiles_are_split_and_added_in_a_second_launch():
    names = [launch.name for launch in recorded(CASES["quantized, one row"].call)]
    assert names == ["quant_gemv_kernel", "add_splits_kernel"]
    assert len(recorded(lambda: product(4096, 4, "zeros"))) == 1
