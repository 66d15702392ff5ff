"""The harness itself: kernels broken on purpose are caught, sound ones are not."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from stores import StoreFault
from triton.runtime.errors import InterpreterError


@triton.jit
def copy_kernel(source, target, num, STEP: tl.constexpr, BLOCK: tl.constexpr):
    """Each program copies BLOCK elements, STEP after those of the one before."""
    at = tl.program_id(0) * STEP + tl.arange(0, BLOCK)
    tl.store(target + at, tl.load(source + at, mask=at < num), mask=at < num)


@triton.jit
def bare_kernel(source, target, BLOCK: tl.constexpr):
    """Copies without a mask."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + at, tl.load(source + at))


@triton.jit
def add_kernel(source, total, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(total, tl.sum(tl.load(source + at)))


@triton.jit
def stray_kernel(target, BLOCK: tl.constexpr):
    """Stores a block before its tensor."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK) - BLOCK
    tl.store(target + at, at.to(tl.float32))


def test_a_sound_kernel_passes() -> None:
    source = torch.randn(20)
    target = torch.empty(20)
    copy_kernel[(3,)](source, target, 20, STEP=8, BLOCK=8)
    assert torch.equal(source, target)


def test_two_programs_that_store_to_one_element_are_caught() -> None:
    source = torch.randn(20)
    with pytest.raises(StoreFault, match="both store to 8 elements"):
        copy_kernel[(3,)](source, torch.empty(20), 20, STEP=4, BLOCK=8)


def test_a_tile_that_is_not_written_is_a_wrong_value() -> None:
    source = torch.randn(20)
    target = torch.empty(20)
    copy_kernel[(2,)](source, target, 20, STEP=8, BLOCK=8)
    assert torch.equal(source[:16], target[:16])
    assert target[16:].isnan().all()


def test_a_load_behind_its_tensor_is_caught() -> None:
    with pytest.raises((StoreFault, InterpreterError), match="a load of 4 elements outside"):
        bare_kernel[(3,)](torch.randn(20), torch.empty(24), BLOCK=8)


def test_a_store_behind_its_tensor_is_caught() -> None:
    with pytest.raises((StoreFault, InterpreterError), match="a store of 4 elements outside"):
        bare_kernel[(3,)](torch.randn(24), torch.empty(20), BLOCK=8)


def test_a_store_before_its_tensor_is_caught() -> None:
    with pytest.raises((StoreFault, InterpreterError), match="a store of 8 elements outside"):
        stray_kernel[(1,)](torch.empty(20), BLOCK=8)


def test_programs_may_add_to_one_element_atomically() -> None:
    source, total = torch.randn(24), torch.zeros(1)
    add_kernel[(3,)](source, total, BLOCK=8)
    assert torch.allclose(total, source.sum())
