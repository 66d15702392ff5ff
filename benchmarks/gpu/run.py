"""Every kernel on this machine's GPU: checked against float64, then timed beside its peers.

    python benchmarks/gpu/run.py [--json FILE] [--only TEXT] [--dtypes bfloat16,float16]
    python benchmarks/gpu/run.py --interpret

Peers are torch (SDPA, cuBLAS and the plain functions) and, where they are installed, flash-attn,
Liger and gemlite; a peer that is missing or fails is named with its reason. A kernel whose values
are wrong is not timed and ends the run with exit code 1. --interpret exercises all of this without
a GPU, in triton's interpreter and on small sizes: its times say nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if "--interpret" in sys.argv:
    # Kernels are made when their files are imported.
    os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from case import CHECKED, INTERPRETED, TIMED, Case, Sizes
from cases import cases

from harness import print_table
from llmtools.ops import path

# Of the largest value: what results are rounded to, and what lies between them.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
TIMED_RUNS = 20


def moved(value: Any, device: str) -> Any:
    """Tensors, and tensors in what holds them, on the device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: moved(getattr(value, f.name), device) for f in dataclasses.fields(value)}
        return type(value)(**parts)
    return value


def inputs_of(case: Case, sizes: Sizes, dtype: torch.dtype, device: str) -> list[Any]:
    torch.manual_seed(0)
    return [moved(x, device) for x in case.make(sizes, dtype)]


def outputs(function: Callable[..., Any], inputs: list[Any], has_gradient: bool) -> list[Any]:
    """What it returns and, with gradients, those of a fixed weighted sum of it."""
    leaves = [
        x.detach().clone().requires_grad_(has_gradient and x.is_floating_point())
        if isinstance(x, torch.Tensor)
        else x
        for x in inputs
    ]
    found = function(*leaves)
    outs = list(found) if isinstance(found, tuple) else [found]
    if has_gradient:
        total = sum(
            (x.double() * torch.linspace(-1, 1, x.numel(), device=x.device).view(x.shape)).sum()
            for x in outs
        )
        total.backward()
    grads = [x.grad for x in leaves if isinstance(x, torch.Tensor) and x.grad is not None]
    return [x.detach() for x in outs] + grads


def error_of(case: Case, inputs: list[Any]) -> float:
    """Largest difference from the reference over the largest value, of outputs and gradients."""
    found = outputs(case.ours, inputs, case.has_gradient)
    want = outputs(case.reference, inputs, case.has_gradient)
    if len(found) != len(want):
        return float("inf")
    differences = []
    for actual, expected in zip(found, want, strict=True):
        actual, expected = actual.double(), expected.double()
        largest = expected.abs().max().clamp(min=1)
        differences.append(((actual - expected).abs().max() / largest).item())
    # max() of a list with NaN may not be NaN.
    return max((float("inf") if d != d else d for d in differences), default=0.0)


def milliseconds(call: Callable[[], Any], device: str) -> float:
    """Median of runs with a cold L2 cache; without a GPU, of one run."""
    if device == "cpu":
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3
    found = triton.testing.do_bench(call, return_mode="all")
    return statistics.median(found[-TIMED_RUNS:] if len(found) > TIMED_RUNS else found)


def timed(function: Callable[..., Any], inputs: Sequence[Any], case: Case) -> Callable[[], Any]:
    """A call of it, backward included where the case has one."""
    if not case.has_gradient:
        return lambda: function(*inputs)
    leaves = [
        x.detach().requires_grad_(x.is_floating_point()) if isinstance(x, torch.Tensor) else x
        for x in inputs
    ]

    def run() -> None:
        found = function(*leaves)
        outs = found if isinstance(found, tuple) else (found,)
        torch.autograd.backward(outs, [torch.ones_like(x) for x in outs])
        for leaf in leaves:
            leaf.grad = None

    return run


def peer_times(case: Case, inputs: list[Any], device: str) -> dict[str, float | str]:
    """Milliseconds of each peer, or why there are none."""
    found: dict[str, float | str] = {}
    for name, peer in case.peers.items():
        try:
            found[name] = milliseconds(timed(peer.call, peer.prepare(*inputs), case), device)
        except ImportError as fault:
            found[name] = f"not installed ({fault.name or fault})"
        # A peer's interface may be another by now; that is worth a line, not the run.
        except Exception as fault:
            found[name] = f"failed: {type(fault).__name__}: {fault}"[:200]
    return found


def measure(case: Case, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """One line of the result."""
    checked, size = (INTERPRETED,) * 2 if device == "cpu" else (CHECKED, TIMED)
    tolerance = TOLERANCE[dtype]
    record: dict[str, Any] = {"case": case.name, "dtype": str(dtype).removeprefix("torch.")}
    try:
        error = error_of(case, inputs_of(case, checked, dtype, device))
    except Exception as fault:
        return record | {"is_right": False, "fault": f"{type(fault).__name__}: {fault}"[:500]}
    record |= {"error": error, "tolerance": tolerance, "is_right": error <= tolerance}
    if not record["is_right"]:
        return record
    inputs = inputs_of(case, size, dtype, device)
    ms = milliseconds(timed(case.ours, inputs, case), device)
    record |= {"ms": ms, "gb_per_s": case.bytes(size) / ms / 1e6}
    record |= {"tflop_per_s": case.flops(size) / ms / 1e9}
    return record | {"peers_ms": peer_times(case, inputs, device)}


def show(records: list[dict[str, Any]]) -> None:
    """The table: ratios are a peer's time over ours."""
    rows: list[list[object]] = []
    for record in records:
        peers = record.get("peers_ms", {})
        ratios = [
            f"{name} {value / record['ms']:.2f}x" if isinstance(value, float) else f"{name} {value}"
            for name, value in peers.items()
        ]
        status = "right" if record["is_right"] else "WRONG"
        status = record["fault"] if "fault" in record else f"{status} {record['error']:.1e}"
        numbers = [record.get(key, "-") for key in ("ms", "gb_per_s", "tflop_per_s")]
        cells = [f"{n:.3g}" if isinstance(n, float) else n for n in numbers]
        rows.append([record["case"], record["dtype"], status, *cells, ", ".join(ratios)])
    print_table(["case", "dtype", "values", "ms", "GB/s", "TFLOP/s", "beside"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose names hold TEXT")
    parser.add_argument("--dtypes", default="bfloat16", help="comma-separated")
    parser.add_argument(
        "--interpret", action="store_true", help="without a GPU, in the interpreter"
    )
    arguments = parser.parse_args()
    device = "cpu" if arguments.interpret else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU here; --interpret exercises the benchmark without one")
    path.FORCED = "triton"
    records = [
        measure(case, getattr(torch, dtype), device)
        for case in cases()
        if arguments.only in case.name
        for dtype in arguments.dtypes.split(",")
    ]
    if not records:
        parser.error(f"no case's name holds {arguments.only!r}")
    show(records)
    if arguments.interpret:
        print("\nIn the interpreter: values count, times say nothing.")
    if arguments.json:
        name = platform.machine() if device == "cpu" else torch.cuda.get_device_name()
        versions = {"torch": torch.__version__, "triton": triton.__version__}
        report = {"device": name, "is_interpreted": arguments.interpret} | versions
        arguments.json.write_text(json.dumps(report | {"records": records}, indent=1) + "\n")
    return 0 if all(record["is_right"] for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
