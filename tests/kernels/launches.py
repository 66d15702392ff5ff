"""What each kernel is compiled for in tests: one launch of real sizes, without memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from llmtools.triton_kernels.gated import gated_backward, gated_forward
from llmtools.triton_kernels.launch import Config
from llmtools.triton_kernels.loss import log_probs, log_probs_grad_
from llmtools.triton_kernels.masking import Masking
from llmtools.triton_kernels.norm import norm_backward, norm_forward
from llmtools.triton_kernels.paged_attention import paged_attention
from llmtools.triton_kernels.paged_cache import PagedCache
from llmtools.triton_kernels.quant_matmul import quant_matmul
from llmtools.triton_kernels.rope import rope
from llmtools.triton_kernels.scaled_matmul import quantize_rows, scaled_matmul


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """call: launches kernels. has_products: whether they must be matrix instructions; is_short: of
    fewer rows than sm_90's HGMMA takes, so that HMMA serves there too; without: targets whose
    compiler refuses it."""

    call: Callable[[], object]
    has_products: bool = False
    is_short: bool = False
    without: tuple[str, ...] = ()


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def wide(*shape: int) -> torch.Tensor:
    return meta(*shape, dtype=torch.float32)


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


def rms_forward() -> None:
    hidden = meta(4096, 1, 4096)
    norm_forward(hidden, meta(4096), None, hidden, eps=1e-5, is_centred=False)


def layer_backward() -> None:
    hidden, of_tokens = meta(4096, 1, 4096), wide(4096)
    norm_backward(hidden, hidden, hidden, meta(4096), of_tokens, of_tokens, has_bias=True)


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


CASES = {
    "quantized, one row": Case(call=lambda: product(1, 4, "zeros")),
    "quantized, few rows": Case(
        call=lambda: product(16, 4, "table"), has_products=True, is_short=True
    ),
    "quantized, many rows": Case(call=lambda: product(512, 4, "zeros"), has_products=True),
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
    "decoding": Case(call=lambda: decode(torch.bfloat16), has_products=True, is_short=True),
    "decoding, int8": Case(call=lambda: decode(torch.int8), has_products=True, is_short=True),
    "int8 by int8": Case(call=lambda: small_product(512, torch.int8), has_products=True),
    "fp8 by fp8": Case(
        call=lambda: small_product(512, torch.float8_e4m3fn), has_products=True, without=("sm_80",)
    ),
    "rows to int8": Case(call=lambda: quantize_rows(meta(512, 8192), torch.int8)),
}
