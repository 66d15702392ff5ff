"""What each kernel is compiled for: launches of real sizes, without memory.

CASES are one configuration of every kernel and are on the page docs/kernels.md; MATRIX are the
others that there are, which `make kernels` compiles beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from compiled import Launch, Target

from llmtools.triton_kernels.attention import attention_forward
from llmtools.triton_kernels.attention_backward import attention_backward
from llmtools.triton_kernels.conv import conv_backward, conv_forward
from llmtools.triton_kernels.gated import gated_backward, gated_forward
from llmtools.triton_kernels.launch import Config
from llmtools.triton_kernels.loss import log_probs, log_probs_grad_
from llmtools.triton_kernels.masking import Masking
from llmtools.triton_kernels.moe import grouped_matmul, grouped_weight_grad, route
from llmtools.triton_kernels.norm import norm_backward, norm_forward
from llmtools.triton_kernels.paged_attention import paged_attention
from llmtools.triton_kernels.paged_cache import PagedCache
from llmtools.triton_kernels.quant_matmul import quant_matmul
from llmtools.triton_kernels.rope import rope
from llmtools.triton_kernels.sampling import sample
from llmtools.triton_kernels.scaled_matmul import quantize_rows, scaled_matmul
from llmtools.triton_kernels.scan import scan_backward, scan_forward

# Warps of a multiprocessor that must find room at once.
LEAST_WARPS = 8
# Kernels whose products must be matrix instructions.
WITH_PRODUCTS = {
    "forward_kernel",
    "grad_kv_kernel",
    "grad_q_kernel",
    "quant_matmul_kernel",
    "paged_attention_kernel",
    "scaled_matmul_kernel",
    "grouped_matmul_kernel",
    "grouped_weight_grad_kernel",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """call: launches kernels. is_short: of fewer rows than sm_90's HGMMA takes, so that HMMA serves
    there too; is_exact: in fp32, for which AMD's alone has matrix instructions; without: targets
    whose compiler refuses it."""

    call: Callable[[], object]
    is_short: bool = False
    is_exact: bool = False
    without: tuple[str, ...] = ()

    def limits(self, target: Target) -> Target:
        """The target, with the matrix instructions that count in this case."""
        is_mixed = self.is_short and target.name == "sm_90"
        return replace(target, matrix="[HIQ]G?MMA") if is_mixed else target

    def has_products(self, launch: Launch, target: Target) -> bool:
        is_exact = self.is_exact and target.gpu.backend != "hip"
        return launch.name in WITH_PRODUCTS and not is_exact


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def wide(*shape: int) -> torch.Tensor:
    return meta(*shape, dtype=torch.float32)


def heads(head_dim: int, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    """Queries, keys and values: 4,096 tokens of eight documents, 32 heads on 8."""
    return [meta(4096, count, head_dim, dtype=dtype) for count in (32, 8, 8)]


def forward(
    head_dim: int, dtype: torch.dtype = torch.bfloat16, config: Config | None = None
) -> None:
    places = meta(9, dtype=torch.int32)
    scale = head_dim**-0.5
    attention_forward(*heads(head_dim, dtype), places, places, 512, Masking(), scale, config)


def backward(head_dim: int, dtype: torch.dtype = torch.bfloat16) -> None:
    places = meta(9, dtype=torch.int32)
    q, k, v = heads(head_dim, dtype)
    lses, scale = wide(32, 4096), head_dim**-0.5
    attention_backward(q, q, k, v, q, lses, places, places, 512, 512, Masking(), scale)


def product(rows: int, bits: int, kind: str, config: Config | None = None) -> None:
    """With a 4096 x 4096 weight in groups of 64."""
    quant_matmul(
        meta(rows, 4096),
        meta(4096 * bits // 8, 4096, dtype=torch.uint8),
        meta(64, 4096, dtype=torch.float16),
        meta(64, 4096, dtype=torch.float16) if kind == "zeros" else None,
        wide(16) if kind == "table" else None,
        None,
        bits=bits,
        group_size=64,
        config=config,
    )


def rms_forward(dtype: torch.dtype = torch.bfloat16) -> None:
    hidden = meta(4096, 1, 4096, dtype=dtype)
    norm_forward(hidden, meta(4096), None, hidden, eps=1e-5, is_centred=False)


def layer_backward(size: int = 4096, dtype: torch.dtype = torch.bfloat16) -> None:
    hidden, of_tokens = meta(4096, 1, size, dtype=dtype), wide(4096)
    norm_backward(hidden, hidden, hidden, meta(size), of_tokens, of_tokens, has_bias=True)


def labels(num_tokens: int) -> torch.Tensor:
    return meta(num_tokens, dtype=torch.int64)


def decode(dtype: torch.dtype, head_dim: int = 128) -> None:
    """Sixteen sequences of at most 8,192 positions in pages of 16."""
    pool = meta(9000, 16, 8, head_dim, dtype=dtype)
    scales = None if dtype == torch.bfloat16 else wide(9000, 16, 8)
    cache = PagedCache(
        keys_PSKD=pool,
        values_PSKD=pool,
        table_BN=meta(16, 512, dtype=torch.int32),
        lengths_B=meta(16, dtype=torch.int32),
        k_scales_PSK=scales,
        v_scales_PSK=scales,
    )
    paged_attention(meta(16, 32, head_dim), cache, 8192, Masking(), head_dim**-0.5)


def small_product(rows: int, dtype: torch.dtype) -> None:
    codes = meta(rows, 4096, dtype=dtype)
    weight = meta(4096, 4096, dtype=dtype)
    scaled_matmul(codes, wide(rows), weight, wide(4096), None, dtype=torch.bfloat16)


def experts(dtype: torch.dtype = torch.bfloat16) -> None:
    """Eight of 64 experts for each of 4,096 tokens."""
    offsets = meta(65, dtype=torch.int32)
    rows = meta(8 * 4096, 2048, dtype=dtype)
    grouped_matmul(rows, meta(64, 2048, 1024, dtype=dtype), offsets)


def experts_gradient(dtype: torch.dtype = torch.bfloat16) -> None:
    offsets = meta(65, dtype=torch.int32)
    grad, rows = meta(8 * 4096, 1024, dtype=dtype), meta(8 * 4096, 2048, dtype=dtype)
    grouped_matmul(grad, meta(64, 1024, 2048, dtype=dtype).transpose(1, 2).mT, offsets)
    grouped_weight_grad(grad, rows, offsets)


def convolve(dtype: torch.dtype = torch.bfloat16) -> None:
    x, firsts = meta(4096, 4096, dtype=dtype), meta(4096, dtype=torch.int32)
    weight, bias = meta(4096, 4, dtype=dtype), meta(4096, dtype=dtype)
    conv_forward(x, weight, bias, firsts, is_activated=True)


def convolve_backward(dtype: torch.dtype = torch.bfloat16) -> None:
    x, firsts = meta(4096, 4096, dtype=dtype), meta(4096, dtype=torch.int32)
    weight, bias = meta(4096, 4, dtype=dtype), meta(4096, dtype=dtype)
    conv_backward(x, x, weight, bias, firsts, is_activated=True)


def scan(dtype: torch.dtype = torch.bfloat16, *, has_gradient: bool = False) -> None:
    """Mamba of 4,096 channels with states of 16."""
    u, b, firsts = meta(4096, 4096, dtype=dtype), meta(4096, 16, dtype=dtype), meta(4096).int()
    rates, skip = wide(4096, 16), wide(4096)
    if has_gradient:
        scan_backward(u, u, u, rates, b, b, skip, firsts, wide(64, 4096, 16))
    else:
        scan_forward(u, u, rates, b, b, skip, firsts)


def draw(dtype: torch.dtype = torch.bfloat16) -> None:
    top_ks = meta(64, dtype=torch.int32)
    sample(meta(64, 128256, dtype=dtype), wide(64), top_ks, wide(64), wide(64), wide(64))


CASES = {
    "attention": Case(call=lambda: forward(128)),
    "attention's gradient": Case(call=lambda: backward(128)),
    "quantized, one row": Case(call=lambda: product(1, 4, "zeros")),
    "quantized, few rows": Case(call=lambda: product(16, 4, "table"), is_short=True),
    "quantized, many rows": Case(call=lambda: product(512, 4, "zeros")),
    "add and RMSNorm": Case(call=rms_forward),
    "LayerNorm's gradient": Case(call=layer_backward),
    "RoPE": Case(
        call=lambda: rope(meta(4096, 32, 128), meta(4096, 8, 128), wide(4096, 64), wide(4096, 64))
    ),
    "SwiGLU": Case(
        call=lambda: gated_forward(meta(4096, 8192), meta(4096, 8192), activation="silu")
    ),
    "GeGLU's gradient": Case(
        call=lambda: gated_backward(*[meta(4096, 8192)] * 3, activation="gelu")
    ),
    "log-probabilities": Case(
        call=lambda: log_probs(meta(512, 128256), labels(512), softcap=30.0, ignore=-100)
    ),
    "gradient of logits": Case(
        call=lambda: log_probs_grad_(
            meta(512, 128256), labels(512), *[wide(512)] * 3, softcap=30.0, ignore=-100
        )
    ),
    "decoding": Case(call=lambda: decode(torch.bfloat16), is_short=True),
    "decoding, int8": Case(call=lambda: decode(torch.int8), is_short=True),
    "int8 by int8": Case(call=lambda: small_product(512, torch.int8)),
    "fp8 by fp8": Case(call=lambda: small_product(512, torch.float8_e4m3fn), without=("sm_80",)),
    "rows to int8": Case(call=lambda: quantize_rows(meta(512, 8192), torch.int8)),
    "routing": Case(call=lambda: route(meta(4096, 64), 8, is_renormalized=True)),
    "products of experts": Case(call=experts),
    "gradients of experts": Case(call=experts_gradient),
    "causal convolution": Case(call=convolve),
    "its gradient": Case(call=convolve_backward),
    "selective scan": Case(call=scan),
    "gradient of the scan": Case(call=lambda: scan(has_gradient=True)),
    "sampling": Case(call=draw),
}

_FLOAT = torch.float32
MATRIX = {
    **{f"attention, {d}": Case(call=partial(forward, d)) for d in (64, 256)},
    "attention's gradient, 64": Case(call=lambda: backward(64)),
    "attention's gradient, 256": Case(call=lambda: backward(256), is_short=True),
    **{
        f"{name}, fp32, {d}": Case(call=partial(function, d, _FLOAT), is_exact=True)
        for name, function in (("attention", forward), ("attention's gradient", backward))
        for d in (64, 128)
    },
    "attention, fp16": Case(call=lambda: forward(128, torch.float16)),
    **{
        f"quantized, {rows} rows, {bits} bits, {kind}": Case(
            call=partial(product, rows, bits, kind), is_short=rows <= 32
        )
        for rows in (1, 16, 32, 64, 512)
        for bits, kind in ((4, "middle"), (4, "zeros"), (4, "table"), (8, "middle"), (8, "zeros"))
    },
    "RMSNorm, fp32": Case(call=lambda: rms_forward(_FLOAT)),
    **{f"LayerNorm's gradient, {c}": Case(call=partial(layer_backward, c)) for c in (512, 8192)},
    "LayerNorm's gradient, fp32": Case(call=lambda: layer_backward(4096, _FLOAT)),
    "RoPE, fp32": Case(
        call=lambda: rope(
            *(meta(4096, count, 128, dtype=_FLOAT) for count in (32, 8)), *[wide(4096, 64)] * 2
        )
    ),
    **{
        f"gate's gradient, {name}": Case(
            call=partial(gated_backward, *[meta(4096, 8192)] * 3, activation=name)
        )
        for name in ("silu", "gelu_tanh")
    },
    "log-probabilities, fp32": Case(
        call=lambda: log_probs(wide(512, 32768), labels(512), softcap=None, ignore=-100)
    ),
    **{
        f"decoding, {d}": Case(call=partial(decode, torch.bfloat16, d), is_short=True)
        for d in (64, 256)
    },
    "decoding, fp8": Case(
        call=lambda: decode(torch.float8_e4m3fn), is_short=True, without=("sm_80",)
    ),
    **{
        f"int8 by int8, {rows} rows": Case(
            call=partial(small_product, rows, torch.int8), is_short=True
        )
        for rows in (16, 64)
    },
    "products of experts, fp32": Case(call=partial(experts, _FLOAT), is_exact=True),
    "gradients of experts, fp32": Case(call=partial(experts_gradient, _FLOAT), is_exact=True),
    "routing, 256 experts": Case(call=lambda: route(wide(4096, 256), 8, is_renormalized=False)),
    "causal convolution, fp32": Case(call=partial(convolve, _FLOAT)),
    "its gradient, fp32": Case(call=partial(convolve_backward, _FLOAT)),
    "selective scan, fp32": Case(call=partial(scan, _FLOAT)),
    "gradient of the scan, fp32": Case(call=partial(scan, _FLOAT, has_gradient=True)),
    "sampling, fp32": Case(call=partial(draw, _FLOAT)),
    "rows to fp8": Case(
        call=lambda: quantize_rows(meta(512, 32768), torch.float8_e4m3fn), without=("sm_80",)
    ),
}
