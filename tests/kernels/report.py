"""docs/kernels.md: what compiled kernels take, and how fast they could be at best.

python tests/kernels/report.py        writes the page, a few minutes unless kernels are cached
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from compiled import TARGETS, cache_compiled, compile_for, faults, recorded
from launches import CASES, LEAST_WARPS, MATRIX, Case
from triton.compiler.errors import CompilationError

from llmtools import triton_kernels

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Dense peaks of vendors' data sheets. memory: bytes/s; others: operations/s, 0 for none."""

    memory: float
    bf16: float
    int8: float
    fp8: float


DEVICES = {
    "A100 80GB SXM": Device(memory=2.039e12, bf16=312e12, int8=624e12, fp8=0),
    "H100 SXM": Device(memory=3.35e12, bf16=989e12, int8=1979e12, fp8=1979e12),
    "H200 SXM": Device(memory=4.8e12, bf16=989e12, int8=1979e12, fp8=1979e12),
    "RTX 4090": Device(memory=1.008e12, bf16=165e12, int8=660e12, fp8=330e12),
    "MI300X": Device(memory=5.3e12, bf16=1307e12, int8=2615e12, fp8=2615e12),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a case cannot do without: bytes moved once, operations, and their kind."""

    bytes: float
    flops: float
    kind: str = "bf16"


def _product(rows: int, extra: int) -> Work:
    """A 4096 x 4096 weight of 4 bits; extra: fp16 numbers for each of 64 groups of a column."""
    weight = 4096 * 4096 // 2 + extra * 64 * 4096 * 2
    return Work(bytes=weight + 2 * rows * 4096 * 2, flops=2 * rows * 4096 * 4096)


def _decode(itemsize: int) -> Work:
    positions = 16 * 8192
    return Work(bytes=2 * positions * 8 * 128 * itemsize, flops=4 * positions * 32 * 128)


_TOKENS = 4096 * 4096
_GATES = 4096 * 8192
_LOGITS = 512 * 128256
_CAUSAL = 8 * 512 * 513 // 2
_SMALL = 512 * 4096 + 4096 * 4096 + 2 * 512 * 4096
_ROWS = 8 * 4096
_EXPERTS = 2 * (_ROWS * (2048 + 1024) + 64 * 2048 * 1024)
WORK = {
    "attention": Work(bytes=2 * 4096 * 128 * (32 + 8 + 8 + 32), flops=4 * 32 * 128 * _CAUSAL),
    "attention's gradient": Work(
        bytes=2 * 4096 * 128 * (3 * 32 + 4 * 8 + 32), flops=10 * 32 * 128 * _CAUSAL
    ),
    "quantized, one row": _product(1, 2),
    "quantized, few rows": _product(16, 1),
    "quantized, many rows": _product(512, 2),
    "add and RMSNorm": Work(bytes=4 * 2 * _TOKENS, flops=6 * _TOKENS),
    "LayerNorm's gradient": Work(bytes=4 * 2 * _TOKENS, flops=12 * _TOKENS),
    "RoPE": Work(bytes=2 * 2 * 4096 * 40 * 128 + 2 * 4096 * 64 * 4, flops=3 * 4096 * 40 * 128),
    "SwiGLU": Work(bytes=3 * 2 * _GATES, flops=5 * _GATES),
    "GeGLU's gradient": Work(bytes=5 * 2 * _GATES, flops=20 * _GATES),
    "log-probabilities": Work(bytes=2 * _LOGITS, flops=6 * _LOGITS),
    "gradient of logits": Work(bytes=4 * _LOGITS, flops=8 * _LOGITS),
    "decoding": _decode(2),
    "decoding, int8": _decode(1),
    "int8 by int8": Work(bytes=_SMALL, flops=2 * 512 * 4096 * 4096, kind="int8"),
    "fp8 by fp8": Work(bytes=_SMALL, flops=2 * 512 * 4096 * 4096, kind="fp8"),
    "rows to int8": Work(bytes=3 * 512 * 8192, flops=3 * 512 * 8192),
    "routing": Work(bytes=4096 * (2 * 64 + 8 * 8), flops=5 * 4096 * 64),
    "products of experts": Work(bytes=_EXPERTS, flops=2 * _ROWS * 2048 * 1024),
    "gradients of experts": Work(bytes=2 * _EXPERTS, flops=4 * _ROWS * 2048 * 1024),
    "causal convolution": Work(bytes=2 * 2 * _TOKENS, flops=13 * _TOKENS),
    "its gradient": Work(bytes=3 * 2 * _TOKENS, flops=36 * _TOKENS),
    "selective scan": Work(bytes=3 * 2 * _TOKENS, flops=6 * 16 * _TOKENS),
    "gradient of the scan": Work(bytes=5 * 2 * _TOKENS, flops=22 * 16 * _TOKENS),
    "sampling": Work(bytes=2 * 64 * 128256, flops=10 * 64 * 128256),
}


def status_of(case: Case, target: str) -> list[list[str]]:
    """A row for each kernel of a case: name, what it takes, and whether tests would pass it."""
    limits, rows = case.limits(TARGETS[target]), []
    for launch in recorded(case.call, TARGETS[target]):
        try:
            found = compile_for(launch, limits)
        except CompilationError:
            rows.append([launch.name, "-", "-", "-", "-", "not supported"])
            continue
        wrong = faults(found, limits, LEAST_WARPS, has_products=case.has_products(launch, limits))
        numbers = (found.registers, found.shared_bytes, found.warps_held, found.matrix)
        rows.append([launch.name, *map(str, numbers), ", ".join(wrong) or "passes"])
    return rows


def source_digest() -> str:
    """A digest of the kernels and of the launches on the page, which is outdated by any change."""
    package = Path(triton_kernels.__file__).parent
    files = [*sorted(package.glob("*.py")), Path(__file__).with_name("launches.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def bounds() -> str:
    """The table of bounds; needs no compiler."""
    lines = [
        "| case | MB moved | GFLOP | FLOP per byte | " + " | ".join(DEVICES) + " |",
        "|---|---|---|---|" + "---|" * len(DEVICES),
    ]
    for name, work in WORK.items():
        cells = []
        for device in DEVICES.values():
            peak = getattr(device, work.kind)
            moved, computed = work.bytes / device.memory, work.flops / peak if peak else 0
            text = f"{1e6 * max(moved, computed):.3g} {'memory' if moved > computed else 'math'}"
            cells.append(text if peak else "-")
        lines.append(
            f"| {name} | {work.bytes / 1e6:.3g} | {work.flops / 1e9:.3g} |"
            f" {work.flops / work.bytes:.3g} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page."""
    lines = [HEAD, f"Digest of what was compiled: `{source_digest()}`.\n"]
    for target in TARGETS:
        lines += [f"### {target}\n", "| case | kernel | registers | shared bytes | warps held |"]
        lines[-1] += " matrix instructions | status |"
        lines.append("|---|---|---|---|---|---|---|")
        for name, case in CASES.items():
            lines += [f"| {name} | {' | '.join(row)} |" for row in status_of(case, target)]
        lines.append("")
    return "\n".join(lines) + "\n" + others() + BOUNDS_HEAD + bounds()


def others() -> str:
    """The table of other configurations: what is wrong with any kernel of one, on each target."""
    lines = ["### Other configurations\n", f"| case | {' | '.join(TARGETS)} |"]
    lines.append("|---|" + "---|" * len(TARGETS))
    for name, case in MATRIX.items():
        found = []
        for target in TARGETS:
            wrong = {row[-1] for row in status_of(case, target)} - {"passes"}
            found.append(", ".join(sorted(wrong)) or "passes")
        lines.append(f"| {name} | {' | '.join(found)} |")
    return "\n".join(lines) + "\n\n"


HEAD = """# Kernels

Written by `make kernels`; nothing on this page was measured on a GPU.

## What is compiled
Every kernel compiled ahead of time for four architectures, bf16 where a name says nothing else,
and what the binary says: registers of a thread, shared memory of a block, warps that fill a
multiprocessor at once, matrix instructions (HMMA, HGMMA, MFMA ...) in the code. A kernel passes
without spills, within the target's shared memory, with eight warps or more, and with matrix
instructions where it has products and nowhere else. `tests/kernels` holds all of them to that on
all four, and `make kernels` their other configurations: head sizes, dtypes, rows, kinds of weights.
Values are held to float64 in triton's interpreter, with every store traced.
"""
BOUNDS_HEAD = """## How fast they could be
Microseconds that no kernel can beat, from the vendors' peaks (dense): the longer of moving the
bytes once and doing the operations. **Bounds, not measurements.** Sizes: products with a weight of
4096 x 4096 and 1, 16 or 512 rows; 4,096 tokens of width 4096, gates of 8192; 512 rows of 128,256
logits; attention over 4,096 tokens in eight documents, 32 heads on 8 of 128; decoding 16 sequences
of 8,192 positions with the same heads; 8 of 64 experts of 2048 x 1024 for each of 4,096 tokens;
a scan of 4,096 channels with states of 16.

"""


def main() -> None:
    cache_compiled(os.environ.setdefault)
    PAGE.write_text(page(), "utf-8")
    print(f"wrote {PAGE.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
