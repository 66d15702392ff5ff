"""What every launcher shares: block sizes of a kernel, and what a target can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton

if triton.knobs.runtime.interpret:
    from llmtools.triton_kernels.interpreter import install

    install()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Block sizes by the kernel's own names, warps, and stages of the software pipeline."""

    blocks: dict[str, int]
    num_warps: int = 4
    num_stages: int = 2

    def keywords(self) -> dict[str, Any]:
        """As keyword arguments of a launch."""
        return self.blocks | {"num_warps": self.num_warps, "num_stages": self.num_stages}


def power_of_two(size: int, least: int = 16) -> int:
    """The block that holds `size` elements; `least` is the smallest that tl.dot takes."""
    return max(least, 1 << (size - 1).bit_length())


def precision(dtype: torch.dtype) -> str:
    """How tl.dot multiplies fp32: exactly, not in TF32 with its 10 bits of mantissa."""
    return "ieee" if dtype == torch.float32 else "tf32"


def num_multiprocessors(device: torch.device) -> int:
    """Of the GPU; of an H100 where no GPU is asked about (the interpreter, launches recorded)."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).multi_processor_count)
    return 132


def is_amd() -> bool:
    """Whether torch was built for AMD's GPUs; what is here decides, as no other is launched on."""
    return torch.version.hip is not None
