"""What the GPU benchmark checks and times: every operation that has a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from case import Case, Peer, Sizes
from mixing_cases import mixing_cases

from llmtools import ops
from llmtools.ops.attention import attention_reference
from llmtools.ops.gated import gated_reference
from llmtools.ops.loss import cross_entropy_reference
from llmtools.ops.norm import layer_norm_reference, rms_norm_reference
from llmtools.ops.packed_weight import PackedWeight, pack_weight
from llmtools.ops.paged_attention import paged_attention_reference
from llmtools.ops.quant_linear import quant_linear_reference
from llmtools.ops.rope import apply_rope_reference
from llmtools.ops.scaled_linear import quantize_rows, scaled_linear_reference
from llmtools.triton_kernels.masking import Masking
from llmtools.triton_kernels.paged_cache import PagedCache

Tensors = tuple[torch.Tensor, ...]


def heads(s: Sizes, dtype: torch.dtype) -> Tensors:
    counts = (s.heads, s.key_heads, s.key_heads)
    return tuple(torch.randn(s.tokens, count, s.head_dim, dtype=dtype) for count in counts)


def hidden(s: Sizes, dtype: torch.dtype) -> Tensors:
    x, weight = torch.randn(s.tokens, s.hidden, dtype=dtype), torch.randn(s.hidden, dtype=dtype)
    return x, torch.randn_like(x), weight


def gates(s: Sizes, dtype: torch.dtype) -> Tensors:
    gate, up = (torch.randn(s.tokens, s.feed_forward, dtype=dtype) for _ in range(2))
    return gate, up


def loss_inputs(s: Sizes, dtype: torch.dtype) -> Tensors:
    states = torch.randn(s.tokens, s.hidden, dtype=dtype)
    weight = torch.randn(s.vocabulary, s.hidden) * s.hidden**-0.5
    return states, weight.to(dtype)


def labels_of(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Every fifth token counts for nothing."""
    labels = torch.arange(len(states), device=states.device) * 7919 % len(weight)
    return labels.where(labels % 5 != 0, -100)


def angles(q: torch.Tensor) -> Tensors:
    return ops.rope_tables(torch.arange(len(q), device=q.device), q.shape[2], 10000.0)


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """One causal document, (T, H, D)."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out[0].transpose(0, 1)


def flash_attn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    attend = import_module("flash_attn").flash_attn_func
    out: torch.Tensor = attend(q[None], k[None], v[None], causal=True)[0]
    return out


def liger(name: str, *arguments: Any, **named: Any) -> Any:
    return getattr(import_module("liger_kernel.transformers.functional"), name)(*arguments, **named)


ATTENTION_PEERS = {"torch": Peer(call=sdpa), "flash_attn": Peer(call=flash_attn)}


def _causal_pairs(s: Sizes) -> float:
    return s.tokens * (s.tokens + 1) / 2


WINDOW = Masking(window=1024, softcap=30.0)


def attention_cases() -> Iterator[Case]:
    moved = lambda s: 4.0 * s.tokens * s.head_dim * (s.heads + s.key_heads)  # noqa: E731
    done = lambda s: 4 * s.heads * s.head_dim * _causal_pairs(s)  # noqa: E731
    yield Case(
        name="attention", make=heads, peers=ATTENTION_PEERS,
        ours=lambda q, k, v: ops.attention(q, k, v, [len(q)]),
        reference=lambda q, k, v: attention_reference(q, k, v, [len(q)])[0],
        bytes=moved, flops=done,
    )  # fmt: skip
    yield Case(
        name="attention and backward", make=heads, peers=ATTENTION_PEERS,
        ours=lambda q, k, v: ops.attention(q, k, v, [len(q)]),
        reference=lambda q, k, v: attention_reference(q, k, v, [len(q)])[0],
        has_gradient=True, bytes=lambda s: 3 * moved(s), flops=lambda s: 3.5 * done(s),
    )  # fmt: skip
    yield Case(
        name="attention, window and soft cap, and backward", make=heads,
        ours=lambda q, k, v: ops.attention(q, k, v, [len(q)], masking=WINDOW),
        reference=lambda q, k, v: attention_reference(q, k, v, [len(q)], masking=WINDOW)[0],
        has_gradient=True, bytes=lambda s: 3 * moved(s),
        flops=lambda s: 14 * s.heads * s.head_dim * min(s.tokens * 1024.0, _causal_pairs(s)),
    )  # fmt: skip


def cache_of(s: Sizes, dtype: torch.dtype, *, is_small: bool) -> tuple[torch.Tensor, PagedCache]:
    """Sequences of as many positions as there are tokens, their pages shuffled."""
    pages = -(-s.tokens // s.page)
    pools = torch.randn(2, s.sequences * pages, s.page, s.key_heads, s.head_dim)
    scales = [None, None]
    if is_small:
        amax = pools.abs().amax(-1) / 127
        pools, scales = (pools / amax[..., None]).round(), list(amax)
    pools = pools.to(torch.int8 if is_small else dtype)
    cache = PagedCache(
        keys_PSKD=pools[0],
        values_PSKD=pools[1],
        table_BN=torch.randperm(s.sequences * pages, dtype=torch.int32).view(s.sequences, pages),
        lengths_B=torch.full((s.sequences,), s.tokens, dtype=torch.int32),
        k_scales_PSK=scales[0],
        v_scales_PSK=scales[1],
    )
    return torch.randn(s.sequences, s.heads, s.head_dim, dtype=dtype), cache


def decode_cases() -> Iterator[Case]:
    for is_small in (False, True):
        yield Case(
            name="decoding over pages" + (", int8" if is_small else ""),
            make=lambda s, dtype, small=is_small: cache_of(s, dtype, is_small=small),
            ours=lambda q, cache: ops.paged_attention(
                q, cache, cache.table_BN.shape[1] * cache.keys_PSKD.shape[1]
            )[0],
            reference=lambda q, cache: paged_attention_reference(q, cache)[0],
            bytes=lambda s, size=1 if is_small else 2: (
                2.0 * s.sequences * s.tokens * s.key_heads * s.head_dim * size
            ),
            flops=lambda s: 4.0 * s.sequences * s.tokens * s.heads * s.head_dim,
        )


def weight_of(s: Sizes, rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, PackedWeight]:
    """4 bits, groups of 64 inputs (of an odd size, padded)."""
    groups = -(-s.hidden // 64)
    codes = torch.randint(0, 16, (s.hidden, s.hidden), dtype=torch.uint8)
    scales, zeros = torch.rand(groups, s.hidden) * 0.01, torch.full((groups, s.hidden), 7.0)
    packed = pack_weight(codes, scales.half(), zeros.half(), bits=4, group_size=64)
    return torch.randn(rows, s.hidden, dtype=dtype), packed


def plain_weight(x: torch.Tensor, packed: PackedWeight) -> Tensors:
    """x, and the weight (K, N) as the product of an identity."""
    eye = torch.eye(packed.num_inputs, device=x.device, dtype=torch.float64)
    return x, quant_linear_reference(eye, packed).to(x.dtype)


def gemlite(x: torch.Tensor, packed: PackedWeight) -> tuple[Any, torch.Tensor]:
    core = import_module("gemlite.core")
    kind = {torch.float16: core.DType.FP16, torch.bfloat16: core.DType.BF16}[x.dtype]
    K, N = packed.num_inputs, packed.num_outputs
    linear = core.GemLiteLinearTriton(
        W_nbits=4, group_size=64, in_features=K, out_features=N, input_dtype=kind, output_dtype=kind
    )
    rows = packed.codes.view(-1, 32, N)
    codes = torch.stack([rows & 15, rows >> 4], 1).reshape(-1, N)[:K].T.contiguous()
    assert packed.zeros_GN is not None
    scales, zeros = (
        part.T.to(x.dtype).contiguous() for part in (packed.scales_GN, packed.zeros_GN)
    )
    linear.pack(codes, scales, zeros, bias=None)
    return linear, x


PRODUCT_PEERS = {
    "torch": Peer(call=torch.matmul, prepare=plain_weight),
    "gemlite": Peer(call=lambda linear, x: linear(x), prepare=gemlite),
}


def dequantized(x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor) -> Tensors:
    return x, (weight.float() * scales[:, None]).to(x.dtype)


def product_cases() -> Iterator[Case]:
    for rows in (1, 16, 512):
        yield Case(
            name=f"4-bit weight, {rows} rows",
            make=lambda s, dtype, m=rows: weight_of(s, m, dtype),
            ours=ops.quant_linear,
            reference=quant_linear_reference,
            peers=PRODUCT_PEERS,
            bytes=lambda s, m=rows: s.hidden**2 / 2 + 4.0 * m * s.hidden,
            flops=lambda s, m=rows: 2.0 * m * s.hidden**2,
        )
    for dtype in (torch.int8, torch.float8_e4m3fn):
        yield Case(
            name=f"{str(dtype).removeprefix('torch.')} rows by weight",
            make=lambda s, kind, to=dtype: (
                torch.randn(512 if s.tokens >= 512 else s.tokens, s.hidden, dtype=kind),
                *quantize_rows(torch.randn(s.hidden, s.hidden), to),
            ),
            ours=ops.scaled_linear,
            reference=scaled_linear_reference,
            peers={"torch": Peer(call=F.linear, prepare=dequantized)},
            bytes=lambda s: s.hidden**2 + 4.0 * 512 * s.hidden,
            flops=lambda s: 2.0 * 512 * s.hidden**2,
        )


def both(plain: Callable[..., Any], theirs: Callable[..., Any]) -> dict[str, Peer]:
    return {"torch": Peer(call=plain), "liger_kernel": Peer(call=theirs)}


def element_cases() -> Iterator[Case]:
    element = lambda s: 2.0 * s.tokens * s.hidden  # noqa: E731
    yield Case(
        name="add and RMSNorm, and backward", make=hidden, has_gradient=True,
        ours=lambda x, r, w: ops.add_rms_norm(x, r, w, 1e-5),
        reference=lambda x, r, w: (rms_norm_reference(x + r, w, 1e-5), x + r),
        peers={"torch": Peer(call=lambda x, r, w: (F.rms_norm(x + r, (len(w),), w, 1e-5), x + r))},
        bytes=lambda s: 8 * element(s),
    )  # fmt: skip
    yield Case(
        name="RMSNorm and backward", make=hidden, has_gradient=True,
        ours=lambda x, r, w: ops.rms_norm(x, w, 1e-5),
        reference=lambda x, r, w: rms_norm_reference(x, w, 1e-5),
        peers=both(
            lambda x, r, w: F.rms_norm(x, (len(w),), w, 1e-5),
            lambda x, r, w: liger("liger_rms_norm", x, w, 1e-5, in_place=False),
        ),
        bytes=lambda s: 5 * element(s),
    )  # fmt: skip
    yield Case(
        name="LayerNorm and backward", make=hidden, has_gradient=True,
        ours=lambda x, r, w: ops.layer_norm(x, w, w, 1e-5),
        reference=lambda x, r, w: layer_norm_reference(x, w, w, 1e-5),
        peers=both(
            lambda x, r, w: F.layer_norm(x, (len(w),), w, w, 1e-5),
            lambda x, r, w: liger("liger_layer_norm", x, w, w, 1e-5),
        ),
        bytes=lambda s: 5 * element(s),
    )  # fmt: skip
    yield Case(
        name="RoPE and backward", make=heads, has_gradient=True,
        ours=lambda q, k, v: ops.apply_rope(q, k, *angles(q)),
        reference=lambda q, k, v: tuple(apply_rope_reference(x, *angles(q)) for x in (q, k)),
        bytes=lambda s: 8.0 * s.tokens * s.head_dim * (s.heads + s.key_heads),
    )  # fmt: skip
    yield Case(
        name="SwiGLU and backward", make=gates, has_gradient=True, ours=ops.swiglu,
        reference=lambda g, u: gated_reference(g, u, "silu"),
        peers=both(lambda g, u: F.silu(g) * u, lambda g, u: liger("liger_swiglu", g, u)),
        bytes=lambda s: 16.0 * s.tokens * s.feed_forward,
    )  # fmt: skip
    yield Case(
        name="GeGLU and backward", make=gates, has_gradient=True, ours=ops.geglu,
        reference=lambda g, u: gated_reference(g, u, "gelu_tanh"),
        peers=both(
            lambda g, u: F.gelu(g, approximate="tanh") * u, lambda g, u: liger("liger_geglu", g, u)
        ),
        bytes=lambda s: 16.0 * s.tokens * s.feed_forward,
    )  # fmt: skip
    yield Case(
        name="cross-entropy of a product, and backward", make=loss_inputs, has_gradient=True,
        ours=lambda h, w: ops.cross_entropy(h, w, labels_of(h, w)),
        reference=lambda h, w: cross_entropy_reference(h, w, labels_of(h, w)),
        peers=both(
            lambda h, w: F.cross_entropy(
                F.linear(h, w).float(), labels_of(h, w), reduction="sum"
            ),
            lambda h, w: liger(
                "liger_fused_linear_cross_entropy", h, w, labels_of(h, w), reduction="sum"
            ),
        ),
        flops=lambda s: 6.0 * s.tokens * s.hidden * s.vocabulary,
    )  # fmt: skip


def cases() -> list[Case]:
    return [
        *attention_cases(),
        *decode_cases(),
        *product_cases(),
        *element_cases(),
        *mixing_cases(),
    ]
