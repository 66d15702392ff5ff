"""Stored code gets and gives what numba's own calls do."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtools.jit import kernel
from llmtools.machine_code import calls
from llmtools.machine_code.image import is_supported

pytestmark = pytest.mark.skipif(not is_supported(), reason="numba alone serves this machine")

DTYPES = ["b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


@kernel
def _weighted(values: npt.NDArray[Any], factor: float, is_negative: bool, at: int) -> float:
    """All elements in order, each with a weight of its own, so that none stands for another."""
    total = 0.0
    weight = 1.0
    for value in values.flat:
        total += weight * value
        weight += 1.0
    return (-total if is_negative else total) * factor + at


def _weighted_reference(
    values: npt.NDArray[Any], factor: float, is_negative: bool, at: int
) -> float:
    total = float((np.arange(1, values.size + 1) * values.astype(np.float64).ravel()).sum())
    return (-total if is_negative else total) * factor + at


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", ["whole", "strided", "columns", "reversed", "read-only", "empty"])
def test_arrays_of_every_type_and_layout_arrive_whole(dtype: str, view: str) -> None:
    values = np.arange(24).reshape(4, 6) % 2 if dtype == "b1" else np.arange(24).reshape(4, 6)
    values = values.astype(dtype)
    if view == "strided":
        values = values[::2, 1::3]
    elif view == "columns":
        values = np.asfortranarray(values)
    elif view == "reversed":
        values = values[::-1, ::-1]
    elif view == "read-only":
        values.flags.writeable = False
    elif view == "empty":
        values = values[:0]
    assert _weighted(values, 0.5, True, -3) == _weighted_reference(values, 0.5, True, -3)


@kernel
def _of_no_dimension(value: npt.NDArray[np.float64]) -> float:
    return value[()] * 2


def test_an_array_may_have_no_dimension_and_a_type_of_another_name() -> None:
    assert _of_no_dimension(np.array(1.5)) == 3.0
    kinds = [calls.flatten((np.zeros(2, letter),))[0] for letter in "lqp"]
    assert len(set(kinds)) == 1
    assert calls.flatten((np.zeros(2, ">i8"),)) == (None, [])


@kernel
def _numbers(a: int, b: float, c: bool, pair: tuple[int, float]) -> tuple[Any, ...]:
    return pair[1] * b, a - pair[0], not c, pair


@given(
    a=st.integers(-(2**62), 2**62),
    b=st.floats(-1e9, 1e9),
    c=st.booleans(),
    pair=st.tuples(st.integers(-(2**62), 2**62), st.floats(-1e9, 1e9)),
)
def test_numbers_and_tuples_come_and_go(a: int, b: float, c: bool, pair: tuple[int, float]) -> None:
    found = _numbers(a, b, c, pair)
    assert found == (pair[1] * b, (a - pair[0] + 2**63) % 2**64 - 2**63, not c, pair)
    assert [type(part) for part in found] == [float, int, bool, tuple]


@kernel
def _types_of(small: Any, wide: Any, half: Any) -> Any:
    return small + 1, wide + np.uint64(1), half


def test_numbers_of_numpy_keep_their_width() -> None:
    found = _types_of(np.uint8(255), np.uint64(2**64 - 2), np.float32(0.1))
    assert found == (256, 2**64 - 1, float(np.float32(0.1)))


@kernel
def _arrays(values: npt.NDArray[np.int64], count: int) -> Any:
    made = np.arange(count)
    return made, made[1:], values, values[::2], np.ones((count, 2), np.float32)


def test_arrays_that_a_kernel_returns_stay_while_someone_looks_at_them() -> None:
    values = np.arange(6)
    made, part, same, strided, flat = _arrays(values, 1000)
    del made
    gc.collect()
    other = [_arrays(values, 1000) for _ in range(20)]
    assert part.tolist() == list(range(1, 1000))
    assert flat.dtype == np.float32 and flat.shape == (1000, 2) and flat.all()
    strided[0] = 9
    assert values[0] == same[0] == 9
    del values, same
    gc.collect()
    assert strided.tolist() == [9, 2, 4]
    assert len(other) == 20


@kernel
def _given_back(
    first: npt.NDArray[np.int64], others: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
) -> Any:
    return first, others[1], others[0][1:3], first[:0]


def test_arguments_come_back_as_themselves_and_keep_no_others_alive() -> None:
    first, second, third = np.arange(3), np.arange(4), np.arange(5)
    same, also_same, part, nothing = _given_back(first, (second, third))
    assert same is first and also_same is third
    assert part.tolist() == [1, 2] and np.shares_memory(part, second)
    assert nothing.shape == (0,) and nothing.dtype == np.int64
    gone = [weakref.ref(array) for array in (first, second, third)]
    del first, same, second, third, also_same, nothing
    gc.collect()
    assert [one() is None for one in gone] == [True, False, True]
    assert part.tolist() == [1, 2]


def test_the_memory_of_an_array_is_freed_once_with_its_last_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _arrays(np.arange(2), 3)
    freed: list[int] = []

    def free(start: int, really: Any = calls._free) -> None:
        freed.append(start)
        really(start)

    monkeypatch.setattr(
        calls._Memory.__del__, "__defaults__", (calls.ctypes.c_int64.from_address, free)
    )
    made, part, same, strided, flat = _arrays(np.arange(2), 3)
    del made, same, strided
    gc.collect()
    assert freed == []
    del part
    gc.collect()
    assert len(freed) == 1
    del flat
    gc.collect()
    assert len(set(freed)) == len(freed) == 2


@kernel
def _quotient(values: npt.NDArray[np.int64], by: int) -> int:
    return values[0] // by


@kernel
def _room(count: int) -> int:
    return np.empty(count, np.uint8).size


@kernel
def _assigned(values: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> None:
    values[:] = other


def test_exceptions_of_kernels_are_raised() -> None:
    assert _quotient(np.array([7]), 2) == 3
    with pytest.raises(ZeroDivisionError, match="_quotient"):
        _quotient(np.array([7]), 0)
    with pytest.raises(MemoryError, match="_room"):
        _room(1 << 60)
    with pytest.raises(ValueError, match="_assigned"):
        _assigned(np.arange(3), np.arange(4))
    values = np.arange(3)
    _assigned(values, values[::-1])
    assert values.tolist() == [2, 1, 0]


@kernel
def _cases(x: int) -> int:
    table = (3, 1, 4, 1, 5, 9)
    if x == 0:
        return table[x] + 11
    if x == 1:
        return 17
    if x == 2:
        return table[x] * 13
    if x == 3:
        return 29
    return table[x % 6]


def test_constants_and_jumps_are_found_where_the_code_is_put() -> None:
    assert [_cases(x) for x in range(6)] == [14, 17, 52, 29, 5, 9]


def test_arguments_that_only_numba_knows_are_left_to_it() -> None:
    for argument in (2**63, "text", np.zeros(2, "c16"), np.array(["a"]), (1, "text")):
        assert calls.flatten((argument,)) == (None, [])
    unaligned = np.frombuffer(bytes(17), np.uint8)[1:].view(np.int64)
    assert calls.flatten((unaligned,)) != calls.flatten((np.zeros(2, np.int64),))


@pytest.mark.parametrize(
    ("result", "plain"), [("q", True), (["q", ["q", "d"]], True), (["?", ["q", "?"], "?"], False)]
)
def test_results_with_gaps_inside_are_known(result: Any, plain: bool) -> None:
    assert calls.is_plain(result) == plain
