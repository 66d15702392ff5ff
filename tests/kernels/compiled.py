"""Kernels compiled ahead of time for GPUs that are not there, and what the binaries say.

What is compiled is what a launcher launches: `recorded` calls it with tensors without memory, keeps
each launch instead of running it, and specializes its arguments as triton's own launcher does.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from llmtools.triton_kernels import launch

_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.bool: "i1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A GPU architecture and what one of its multiprocessors holds (vendors' tables).

    shared_bytes: of one block at most; shared_total: of all blocks of a multiprocessor. matrix: the
    instruction that products must become.
    """

    name: str
    gpu: GPUTarget
    shared_bytes: int
    shared_total: int
    registers: int
    max_threads: int
    matrix: str


TARGETS = {
    target.name: target
    for target in (
        Target(
            name="sm_80",
            gpu=GPUTarget("cuda", 80, 32),
            shared_bytes=166912,
            shared_total=167936,
            registers=65536,
            max_threads=2048,
            matrix="[HI]MMA",
        ),
        Target(
            name="sm_90",
            gpu=GPUTarget("cuda", 90, 32),
            shared_bytes=232448,
            shared_total=233472,
            registers=65536,
            max_threads=2048,
            matrix="[HIQ]GMMA",
        ),
        Target(
            name="sm_100",
            gpu=GPUTarget("cuda", 100, 32),
            shared_bytes=232448,
            shared_total=233472,
            registers=65536,
            max_threads=2048,
            matrix=r"UTC\w*MMA|[HI]MMA",
        ),
        Target(
            name="gfx942",
            gpu=GPUTarget("hip", "gfx942", 64),
            shared_bytes=65536,
            shared_total=65536,
            registers=4 * 512 * 64,
            max_threads=2048,
            matrix="v_mfma",
        ),
    )
}


# Consumers' GPUs: instructions of sm_80, and less shared memory.
SMALL_TARGETS = {
    name: replace(
        TARGETS["sm_80"],
        name=name,
        gpu=GPUTarget("cuda", int(name.removeprefix("sm_")), 32),
        shared_bytes=101376,
        shared_total=102400,
        max_threads=1536,
        matrix="[HIQ]MMA",
    )
    for name in ("sm_89", "sm_120")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One kernel with its arguments specialized."""

    kernel: JITFunction[Any]
    signature: dict[str, str]
    constants: dict[str, Any]
    attributes: dict[tuple[int, ...], list[list[Any]]]
    options: dict[str, int]

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a compiled kernel takes. registers: of a thread; warps_held: warps of a multiprocessor
    that its blocks fill at once; matrix: how many matrix instructions it has."""

    registers: int
    spills: int
    shared_bytes: int
    matrix: int
    warps_held: int


def recorded(call: Callable[[], object], target: Target | None = None) -> list[Launch]:
    """The launches that `call` makes with tensors on the device `meta`, for a target's makers."""
    found: list[Launch] = []

    def keep(self: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **named: Any) -> None:
        options = {key: named.pop(key) for key in ("num_warps", "num_stages") if key in named}
        bound = dict(zip(self.arg_names, args, strict=False)) | named
        found.append(_specialized(self, bound, options))

    is_amd = target is not None and target.gpu.backend == "hip"
    with (
        mock.patch.object(JITFunction, "run", keep),
        mock.patch.object(launch, "is_amd", lambda: is_amd),
    ):
        call()
    return found


def _specialized(
    kernel: JITFunction[Any], bound: dict[str, Any], options: dict[str, int]
) -> Launch:
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for number, parameter in enumerate(kernel.params):
        name, value = parameter.name, bound[parameter.name]
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[name] = "constexpr"
            constants[name] = value
        elif isinstance(value, torch.Tensor):
            signature[name] = f"*{_TYPES[value.dtype]}"
            attributes[(number,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if -(1 << 31) <= value < 1 << 31 else "i64"
            if value % 16 == 0:
                attributes[(number,)] = [["tt.divisibility", 16]]
    return Launch(
        kernel=kernel,
        signature=signature,
        constants=constants,
        attributes=attributes,
        options=options,
    )


def compile_for(launch: Launch, target: Target) -> Resources:
    """Compile and read the binary; raises triton's own errors for what it refuses."""
    source = ASTSource(
        fn=launch.kernel,
        signature=launch.signature,
        constexprs=launch.constants,
        attrs=launch.attributes,
    )
    binary = triton.compile(source, target=target.gpu, options=launch.options)
    read = _read_amd if target.gpu.backend == "hip" else _read_nvidia
    registers, spills, matrix = read(binary.asm, target)
    shared = binary.metadata.shared
    warps = launch.options.get("num_warps", 4)
    threads = warps * target.gpu.warp_size
    blocks = min(
        target.registers // max(1, registers * threads),
        target.shared_total // (shared + 1024),
        target.max_threads // threads,
    )
    return Resources(
        registers=registers,
        spills=spills,
        shared_bytes=shared,
        matrix=matrix,
        warps_held=blocks * warps,
    )


def faults(found: Resources, target: Target, least_warps: int, *, has_products: bool) -> list[str]:
    """What is wrong with a compiled kernel."""
    is_so = {
        f"spills {found.spills}": found.spills > 0,
        "too much shared memory": found.shared_bytes > target.shared_bytes,
        "low occupancy": found.warps_held < least_warps,
        "no matrix instructions": has_products and not found.matrix,
        "matrix instructions where there is no product": not has_products and found.matrix > 0,
    }
    return [fault for fault, is_fault in is_so.items() if is_fault]


def cache_compiled(set_environment: Callable[[str, str], object]) -> None:
    """Keep what is compiled in the user's cache, where no other cache is named."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    if "TRITON_CACHE_DIR" not in os.environ:
        set_environment("TRITON_CACHE_DIR", f"{base}/llmtools/triton")


def _read_nvidia(asm: dict[str, Any], target: Target) -> tuple[int, int, int]:
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(asm["cubin"])

        def dump(flag: str) -> str:
            command = [str(tools / "cuobjdump"), flag, str(cubin)]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        usage, code = dump("-res-usage"), dump("-sass")
    registers = int(re.findall(r"REG:(\d+)", usage)[-1])
    local = int(re.findall(r"LOCAL:(\d+)", usage)[-1])
    stack = int(re.findall(r"STACK:(\d+)", usage)[-1])
    moves = len(re.findall(r"\b(?:STL|LDL)\b", code))
    matrix = len(re.findall(rf"\b(?:{target.matrix})\b", code))
    return registers, local + stack + moves, matrix


def _read_amd(asm: dict[str, Any], target: Target) -> tuple[int, int, int]:
    text = asm["amdgcn"]

    def number(key: str) -> int:
        return max(map(int, re.findall(rf"\.{key}:\s*(\d+)", text)), default=0)

    registers = max(1, number("vgpr_count"))
    # Scalar registers are spilled to lanes of vector registers, which takes no memory; where those
    # run out as well, scratch memory is taken.
    spills = number("vgpr_spill_count") + number("private_segment_fixed_size")
    return registers, spills, len(re.findall(target.matrix, text))
