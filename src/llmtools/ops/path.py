"""Which way an operation is computed: a Triton kernel, torch ("native"), or its float64 reference.

A GPU's tensors take the kernel, a CPU's take torch. What a kernel does not support goes to torch,
with one warning that names the reason. LLMTOOLS_OPS=reference|triton|native forces a way for
debugging; triton is refused where it cannot be had. With TRITON_INTERPRET=1 kernels run without a
GPU, slowly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch

from llmtools import terminal
from llmtools.errors import ResourceError, UsageError, did_you_mean

Way = Literal["reference", "native", "triton"]
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def _read() -> Way | None:
    """What the environment forces; checked here, before a model is loaded."""
    named = os.environ.get("LLMTOOLS_OPS")
    if not named:
        return None
    for way in get_args(Way):
        if named == way:
            if way == "triton" and not torch.cuda.is_available() and not _is_interpreted():
                raise ResourceError(
                    "LLMTOOLS_OPS=triton: this machine has no GPU; unset it, or set"
                    " TRITON_INTERPRET=1 to run kernels in the interpreter, slowly"
                )
            found: Way = way
            return found
    hint = did_you_mean(named, get_args(Way))
    raise UsageError(f"LLMTOOLS_OPS={named}: must be reference, triton or native{hint}")


FORCED: Way | None = _read()
_warned: set[tuple[str, str]] = set()


def choose(op: str, x: torch.Tensor, refuse: Callable[[], str | None]) -> Way:
    """The way of one call. refuse: why the kernel does not take it, None where it does.

    raises: UsageError where a kernel is forced that refuses, or that has no GPU to run on.
    """
    if FORCED is None and not x.is_cuda:
        return "native"
    if FORCED in ("reference", "native"):
        return FORCED
    reason = (_architecture_refusal(x.device) if x.is_cuda else None) or refuse()
    if FORCED is None:
        if reason is None:
            return "triton"
        if (op, reason) not in _warned:
            _warned.add((op, reason))
            terminal.warn(f"{op} runs without its kernel: {reason}")
        return "native"
    if not x.is_cuda and not _is_interpreted():
        reason = f"tensors are on {x.device.type}; kernels run on GPUs"
    if reason is not None:
        raise UsageError(f"LLMTOOLS_OPS=triton: {op}: {reason}; unset it to let torch compute this")
    return "triton"


def _architecture_refusal(device: torch.device) -> str | None:
    """Why kernels are not for this GPU: tests/kernels compiles them for some architectures."""
    if torch.version.hip is not None:
        name = torch.cuda.get_device_properties(device).gcnArchName.partition(":")[0]
        return None if name.startswith("gfx94") else f"{name}; kernels were compiled for gfx942"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"compute capability {major}.{minor}; kernels take 8.0 and later"
    return None


def dtype_refusal(tensors: Sequence[torch.Tensor], known: Sequence[torch.dtype]) -> str | None:
    """A kernel takes tensors of one of these dtypes, all of the same."""
    names = [str(x.dtype).removeprefix("torch.") for x in tensors]
    if len(set(names)) > 1:
        return f"tensors of {' and '.join(sorted(set(names)))}; one dtype is taken"
    if tensors[0].dtype not in known:
        taken = ", ".join(str(dtype).removeprefix("torch.") for dtype in known)
        return f"tensors of {names[0]}; {taken} are taken"
    return None
