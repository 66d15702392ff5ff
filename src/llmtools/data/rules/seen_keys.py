"""A set of 64-bit keys that may say of a key that it was there when it was not, never the reverse.

Each key sets two bits of one 64-bit unit, so that one look at the memory decides (a blocked Bloom
filter: Putze, Sanders and Singler 2007).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.jit import inlined

Keys = npt.NDArray[np.uint64]

_MIX = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(31)
_ONE, _SIX, _LOW = np.uint64(1), np.uint64(6), np.uint64(63)


@inlined
def mixed(key: np.uint64) -> np.uint64:
    x = (key ^ (key >> _SHIFT)) * _MIX
    return np.uint64(x ^ (x >> _SHIFT))


@inlined
def clear(numbers: Any) -> None:
    # A slice that is assigned to makes numba import a tenth of itself for its errors, for 20 ms.
    for i in range(numbers.size):
        numbers[i] = 0


@inlined
def see(seen: Keys, shift: np.uint64, key: np.uint64) -> bool:
    """Whether a key, or others with the same two bits of a word, was there before; now it is."""
    # An unsigned index is not asked whether it counts from the end.
    at = key >> shift
    own = (_ONE << (key & _LOW)) | (_ONE << ((key >> _SIX) & _LOW))
    bits = seen[at]
    seen[at] = bits | own
    return bool(bits & own == own)
