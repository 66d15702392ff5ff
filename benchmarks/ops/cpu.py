"""The operations that models are made of beside torch's own used plainly, on one CPU thread.

    python benchmarks/ops/cpu.py [--rounds N]

Both compute the same values, checked first, on sizes of SmolLM2-135M; rounds of the two alternate,
and the ratio is of the medians of their CPU time: above 1, ours is faster. The last table: what the
loss of a vocabulary of 32,768 takes beyond its inputs, the peak of each in a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from harness import print_table, run_cpu
from llmtools import ops
from llmtools.ops.loss import LEAST_CHUNK

HIDDEN, FEED_FORWARD, HEADS, KEY_HEADS, HEAD_DIM, VOCABULARY = 576, 1536, 9, 3, 64, 32768
TOKENS = 2048
# A round is at least this long, so that the clock's grain and the first call weigh little.
LEAST_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """ours, plain: functions of the inputs. has_gradient: the backward is timed too."""

    name: str
    inputs: tuple[torch.Tensor, ...]
    ours: Callable[..., torch.Tensor]
    plain: Callable[..., torch.Tensor]
    has_gradient: bool = False


def heads(tokens: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(tokens, count, HEAD_DIM).to(dtype)


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """One document, (T, H, D)."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out[0].transpose(0, 1)


def plain_packed(lengths: list[int]) -> Callable[..., torch.Tensor]:
    """One call with the block-diagonal mask of all documents."""
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = (document[:, None] == document[None]).tril()

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return out[0].transpose(0, 1)

    return attend


def plain_decode(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None], keys[None], values[None], enable_gqa=True
    )
    return out[0].transpose(0, 1)


def plain_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """As transformers has it: x cos + rotate_half(x) sin."""
    a, b = x.chunk(2, -1)
    return (x * torch.cat([cos, cos], -1) + torch.cat([-b, a], -1) * torch.cat([sin, sin], -1)).to(
        x.dtype
    )


def cases() -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        qkv = (
            heads(TOKENS, HEADS, dtype),
            heads(TOKENS, KEY_HEADS, dtype),
            heads(TOKENS, KEY_HEADS, dtype),
        )
        yield Case(
            name=f"attention, prefill, {kind}",
            inputs=qkv,
            ours=lambda q, k, v: ops.attention(q, k, v, [TOKENS]),
            plain=plain_attention,
        )
        lengths = [700, 100, 400, 300, 48, 250, 200, 50]
        yield Case(
            name=f"attention, packed rows, {kind}",
            inputs=qkv,
            ours=lambda q, k, v, lengths=lengths: ops.attention(q, k, v, lengths),
            plain=plain_packed(lengths),
            has_gradient=True,
        )
        cache = [torch.randn(KEY_HEADS, TOKENS, HEAD_DIM).to(dtype) for _ in range(2)]
        yield Case(
            name=f"attention, one token, {kind}",
            inputs=(heads(1, HEADS, dtype), *cache),
            ours=ops.cached_attention,
            plain=plain_decode,
        )
        hidden, weight = torch.randn(TOKENS, HIDDEN).to(dtype), torch.randn(HIDDEN).to(dtype)
        for has_gradient in (False, True):
            also = " and backward" if has_gradient else ""
            yield Case(
                name=f"RMSNorm{also}, {kind}",
                inputs=(hidden, weight),
                ours=lambda x, w: ops.rms_norm(x, w, 1e-5),
                plain=lambda x, w: F.rms_norm(x, (HIDDEN,), w, 1e-5),
                has_gradient=has_gradient,
            )
            gates = [torch.randn(TOKENS, FEED_FORWARD).to(dtype) for _ in range(2)]
            yield Case(
                name=f"SwiGLU{also}, {kind}",
                inputs=tuple(gates),
                ours=ops.swiglu,
                plain=lambda gate, up: F.silu(gate) * up,
                has_gradient=has_gradient,
            )
            cos, sin = ops.rope_tables(torch.arange(TOKENS), HEAD_DIM, 10000.0)
            yield Case(
                name=f"RoPE{also}, {kind}",
                inputs=qkv[:2],
                ours=lambda q, k, c=cos, s=sin: torch.cat(ops.apply_rope(q, k, c, s), 1),
                plain=lambda q, k, c=cos, s=sin: torch.cat(
                    [plain_rope(x, c, s) for x in (q, k)], 1
                ),
                has_gradient=has_gradient,
            )
    yield loss_case()


def loss_case() -> Case:
    labels = torch.randint(0, VOCABULARY, (TOKENS,))
    return Case(
        name="cross-entropy and backward, float32",
        inputs=(torch.randn(TOKENS, HIDDEN), torch.randn(VOCABULARY, HIDDEN) / 20),
        ours=lambda h, w: ops.cross_entropy(h, w, labels),
        plain=lambda h, w: F.cross_entropy(F.linear(h, w), labels, reduction="sum"),
        has_gradient=True,
    )


def runner(case: Case, function: Callable[..., torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
    """A call of it; returns the output and the gradients."""
    leaves = [x.clone().requires_grad_(case.has_gradient) for x in case.inputs]

    def run() -> list[torch.Tensor]:
        if not case.has_gradient:
            with torch.inference_mode():
                return [function(*leaves)]
        for leaf in leaves:
            leaf.grad = None
        out = function(*leaves)
        out.sum().backward()
        return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    return run


def compare(case: Case, rounds: int) -> list[object]:
    """A row of the table."""
    ours, plain = runner(case, case.ours), runner(case, case.plain)
    tolerance = 1e-4 if case.inputs[0].dtype == torch.float32 else 3e-2
    for found, want in zip(ours(), plain(), strict=True):
        found, want = found.double(), want.double()
        if (found - want).abs().max() > tolerance * want.abs().max():
            sys.exit(f"{case.name}: values differ by {(found - want).abs().max():.3g}")
    start = time.process_time()
    plain()
    calls = max(1, round(LEAST_S / max(1e-6, time.process_time() - start)))
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(rounds):
        for name, run in (("ours", ours), ("plain", plain)):
            start = time.process_time()
            for _ in range(calls):
                run()
            seconds[name].append((time.process_time() - start) / calls)
    medians = {name: statistics.median(found) * 1e3 for name, found in seconds.items()}
    return [case.name, medians["ours"], medians["plain"], medians["plain"] / medians["ours"]]


def loss_memory() -> list[list[object]]:
    """Peak memory beyond that of a process which has made the inputs and a gradient for each."""
    base = run_cpu([sys.executable, __file__, "--loss", "inputs"]).peak_bytes
    peaks = {
        name: run_cpu([sys.executable, __file__, "--loss", name]).peak_bytes - base
        for name in ("ours", "plain")
    }
    return [[name, peak / 1e6, peak / peaks["plain"]] for name, peak in peaks.items()]


def lose(which: str) -> None:
    case = loss_case()
    if which == "inputs":
        leaves = [x.clone() for x in case.inputs]
        gradients = [torch.ones_like(x) for x in leaves]
        # The products' own buffers are of both.
        (leaves[0][:LEAST_CHUNK] @ leaves[1][:LEAST_CHUNK].T) @ gradients[1][:LEAST_CHUNK]
        return
    runner(case, case.ours if which == "ours" else case.plain)()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loss", choices=["inputs", "ours", "plain"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.loss:
        lose(arguments.loss)
        return
    rows = [compare(case, arguments.rounds) for case in cases()]
    print_table(["operation", "ours ms", "torch ms", "ratio"], rows)
    print()
    print_table(["cross-entropy", "extra MB", "of plain"], loss_memory())


if __name__ == "__main__":
    main()
