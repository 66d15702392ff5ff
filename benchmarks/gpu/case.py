"""One line of the GPU benchmark: a function with a kernel, its reference and its peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of a benchmark; CHECKED are odd, so that no tile is full by chance."""

    tokens: int
    hidden: int
    feed_forward: int
    heads: int
    key_heads: int
    head_dim: int
    vocabulary: int
    sequences: int
    page: int = 16


TIMED = Sizes(
    tokens=4096, hidden=4096, feed_forward=11008, heads=32, key_heads=8, head_dim=128,
    vocabulary=128256, sequences=16,
)  # fmt: skip
CHECKED = Sizes(
    tokens=517, hidden=1000, feed_forward=1100, heads=6, key_heads=2, head_dim=96,
    vocabulary=5003, sequences=3,
)  # fmt: skip
INTERPRETED = Sizes(
    tokens=19, hidden=40, feed_forward=48, heads=4, key_heads=2, head_dim=24, vocabulary=53,
    sequences=2,
)  # fmt: skip


def _as_they_are(*inputs: Any) -> tuple[Any, ...]:
    return inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """call: the same work, of what prepare, which is not timed, makes of the inputs."""

    call: Callable[..., Any]
    prepare: Callable[..., tuple[Any, ...]] = _as_they_are


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """make: inputs for sizes, in a dtype. ours, reference: functions of them. peers: by package.
    bytes, flops: that must be moved and done. has_gradient: the backward is part of the work."""

    name: str
    make: Callable[[Sizes, torch.dtype], Any]
    ours: Callable[..., Any]
    reference: Callable[..., Any]
    peers: dict[str, Peer] = field(default_factory=dict)
    has_gradient: bool = False
    bytes: Callable[[Sizes], float] = lambda _: 0.0
    flops: Callable[[Sizes], float] = lambda _: 0.0
