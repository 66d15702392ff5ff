"""What a run would take, and how this machine does matrix products."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MEASURE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and what it comes from; None where nothing is known, never a guess."""

    value: float | None
    basis: str


UNKNOWN_INPUT = Estimate(value=None, basis="unknown (stdin)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a command would do.

    memory: peak bytes of the process. disk: bytes it writes, all outputs together. time: seconds.
    facts: what is known about inputs and model, in words and numbers.
    """

    command: str
    memory: Estimate
    disk: Estimate
    time: Estimate
    outputs: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """One object; a number that is not known is null."""
        return {
            "command": self.command,
            "memory_bytes": _whole(self.memory.value),
            "disk_bytes": _whole(self.disk.value),
            "time_s": None if self.time.value is None else round(self.time.value, 6),
            "basis": {
                "memory": self.memory.basis,
                "disk": self.disk.basis,
                "time": self.time.basis,
            },
            "outputs": list(self.outputs),
            "facts": dict(self.facts),
        }

    def to_text(self) -> str:
        """Lines for a person."""
        lines = [f"{self.command}: a plan; nothing was written"]
        for name, value in self.facts.items():
            shown = f"{value:,}" if isinstance(value, int) else str(value)
            lines.append(f"  {name.replace('_', ' ')}: {shown}")
        for name, estimate, show in (
            ("memory", self.memory, human_bytes),
            ("disk", self.disk, human_bytes),
            ("time", self.time, human_seconds),
        ):
            if estimate.value is None:
                lines.append(f"  {name}: {estimate.basis}")
            else:
                shown = show(estimate.value)
                lines.append(f"  {name}: about {shown} (estimate: {estimate.basis})")
        lines += [f"  output: {'stdout' if name == '-' else name}" for name in self.outputs]
        return "\n".join(lines) + "\n"


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def human_bytes(value: float) -> str:
    """1234567 -> '1.23 MB' (decimal units)."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f} bytes"


def human_seconds(value: float) -> str:
    """4000 -> '1 h 7 min'."""
    if value < 60:
        return f"{value:.2g} s"
    minutes = round(value / 60)
    hours, left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days:,} d {hours_left} h"
    return f"{hours} h {left} min" if hours else f"{minutes} min"


def matmul_rate(device: Any) -> float:
    """Floating-point operations a second of fp32 products on a torch device, measured now."""
    import torch

    size = 512 if device.type == "cpu" else 4096
    a = torch.ones(size, size, device=device)
    (a @ a).sum().item()
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < MEASURE_SECONDS:
        # .item() waits for a GPU.
        (a @ a)[0, 0].item()
        count += 1
    return float(count * 2 * size**3 / elapsed)


def read_rate(device: Any) -> float:
    """Bytes a second that a torch device reads from its memory, measured now."""
    import torch

    values = torch.ones(1 << 24, device=device)
    values.sum().item()
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < MEASURE_SECONDS:
        values.sum().item()
        count += 1
    return float(count * values.numel() * 4 / elapsed)
