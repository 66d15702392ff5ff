"""Weights of other projects' formats, repacked once into the layout of ops.packed_weight.

    from      stored as                                                        what changes
    GPTQ      int32 (K / n, N), n codes a word along inputs; zeros along N     zeros gain the 1 that
                                                                               the first format took
    AWQ       int32 (K, N / 8), outputs of a word in the order 0 2 4 6 1 3 5 7 nothing
    GGUF      rows of blocks: Q4_0, Q8_0, IQ4_NL                               nothing
              Q4_1, Q4_K: w = scale code + offset                              both rounded to fp16
    NF4       two codes a byte, the first high; absmax of each 64 inputs       nothing

Rounding scale and zero to fp16 moves a weight by at most 2^-10 of the largest that its group's
codes stand for.

Sources: AutoGPTQ's QuantLinear, AutoAWQ's WQLinear_GEMM, ggml-quants.c, functional.py of
bitsandbytes.
"""

from __future__ import annotations

import torch

from llmtools.errors import InputError
from llmtools.formats.block_codecs import BLOCK_TYPES
from llmtools.ops.packed_weight import PackedWeight, pack_weight

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
IQ4_NL_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
GGUF_TYPES = ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "IQ4_NL")
# Above this the codes move a weight by less than fp16 rounds its zero.
_LARGEST_ZERO = 32768.0


def from_gptq(
    qweight: torch.Tensor,
    qzeros: torch.Tensor,
    scales_GN: torch.Tensor,
    g_idx_K: torch.Tensor | None = None,
    *,
    bits: int,
    group_size: int,
    is_v2: bool = False,
) -> PackedWeight:
    """g_idx: the group of each input; where groups are of inputs that lie apart (desc_act), inputs
    are sorted by group. is_v2: the checkpoint's zeros are what they are, not one less.

    raises: InputError where sizes do not fit, or groups are not of one size.
    """
    codes = _fields(qweight, bits).transpose(1, 2).flatten(0, 1)
    zeros = _fields(qzeros, bits).flatten(1)
    if not is_v2:
        zeros = (zeros + 1) & ((1 << bits) - 1)
    K = len(codes)
    group_size = K if group_size == -1 else group_size
    order = None
    if g_idx_K is not None:
        groups = torch.arange(K, device=g_idx_K.device) // group_size
        if not torch.equal(g_idx_K.long(), groups):
            order = g_idx_K.long().argsort(stable=True)
            if not torch.equal(g_idx_K.long()[order], groups):
                raise InputError(f"g_idx: not groups of {group_size} inputs each")
            codes = codes[order]
    return pack_weight(
        codes.to(torch.uint8),
        scales_GN,
        zeros.to(scales_GN.dtype),
        bits=bits,
        group_size=group_size,
        order_K=order,
    )


def from_awq(
    qweight: torch.Tensor, qzeros: torch.Tensor, scales_GN: torch.Tensor, *, group_size: int
) -> PackedWeight:
    """Of 4 bits, the layout called GEMM. raises: InputError where sizes do not fit."""
    places = torch.tensor(AWQ_ORDER, device=qweight.device).argsort()
    codes = _fields(qweight, 4)[:, :, places].flatten(1)
    zeros = _fields(qzeros, 4)[:, :, places].flatten(1)
    return pack_weight(
        codes.to(torch.uint8),
        scales_GN,
        zeros.to(scales_GN.dtype),
        bits=4,
        group_size=len(codes) if group_size == -1 else group_size,
    )


def _fields(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Fields of int32 words (R, C), lowest first: (R, C, 32 / bits)."""
    shifts = torch.arange(0, 32, bits, device=words.device, dtype=torch.int32)
    return (words[:, :, None] >> shifts) & ((1 << bits) - 1)


def from_nf4(
    codes: torch.Tensor,
    absmax: torch.Tensor,
    values: torch.Tensor,
    shape: tuple[int, int],
    *,
    block_size: int = 64,
) -> PackedWeight:
    """codes: uint8, two inputs a byte, row after row. absmax: fp32, of each block. shape: (N, K).

    raises: InputError where blocks run over the ends of rows.
    """
    N, K = shape
    if K % block_size:
        raise InputError(f"rows of {K} weights are not whole blocks of {block_size}")
    both = torch.stack([codes.flatten() >> 4, codes.flatten() & 15], 1).view(N, K)
    scales = absmax.float().view(N, K // block_size).T
    return pack_weight(both.T, scales, bits=4, group_size=block_size, table=values)


def from_gguf(raw: torch.Tensor, type_name: str, shape: tuple[int, int]) -> PackedWeight:
    """raw: uint8, the tensor's bytes. shape: (N, K), as in a model directory.

    raises: InputError for types that do not map onto codes of 4 or 8 bits with one scale a group.
    """
    if type_name not in GGUF_TYPES:
        raise InputError(f"{type_name} has no packed layout; {', '.join(GGUF_TYPES)} have")
    N = shape[0]
    blocks = raw.flatten().view(-1, BLOCK_TYPES[type_name].block_bytes)
    table = None
    if type_name == "Q8_0":
        # -128 .. 127 becomes 0 .. 255.
        codes, scales, zeros = blocks[:, 2:] ^ 128, _halfs(blocks[:, :2]), None
    elif type_name in ("Q4_0", "IQ4_NL"):
        codes, scales, zeros = _nibbles(blocks[:, 2:], 16), _halfs(blocks[:, :2]), None
        if type_name == "IQ4_NL":
            table = torch.tensor(IQ4_NL_VALUES, dtype=torch.float32)
    elif type_name == "Q4_1":
        codes = _nibbles(blocks[:, 4:], 16)
        codes, scales, zeros = _centred(codes, _halfs(blocks[:, :2]), _halfs(blocks[:, 2:4]))
    else:
        codes = _nibbles(blocks[:, 16:], 32).view(-1, 32)
        steps, lows = _six_bits(blocks[:, 4:16])
        scale, offset = _halfs(blocks[:, :2]).float(), _halfs(blocks[:, 2:4]).float()
        codes, scales, zeros = _centred(codes, scale * steps, -(offset * lows))
    return pack_weight(
        codes.reshape(N, -1).T,
        scales.reshape(N, -1).T,
        None if zeros is None else zeros.reshape(N, -1).T,
        bits=8 if type_name == "Q8_0" else 4,
        group_size=32,
        table=table,
    )


def _halfs(raw: torch.Tensor) -> torch.Tensor:
    return raw.contiguous().view(torch.float16)


def _nibbles(raw: torch.Tensor, run: int) -> torch.Tensor:
    """Codes of blocks (B, bytes): of every `run` bytes all low halves, then all high halves."""
    runs = raw.reshape(len(raw), -1, run)
    return torch.stack([runs & 15, runs >> 4], 2).flatten(1)


def _six_bits(raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The 8 scales and 8 minima of 6 bits each that 12 bytes of a Q4_K block hold."""
    first, second, third = raw[:, :4], raw[:, 4:8], raw[:, 8:]
    scales = torch.cat([first & 63, (third & 15) | ((first >> 6) << 4)], 1)
    lows = torch.cat([second & 63, (third >> 4) | ((second >> 6) << 4)], 1)
    return scales, lows


def _centred(
    codes: torch.Tensor, scales: torch.Tensor, offsets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """w = scale code + offset as w = scale (code - zero), in fp16.

    A group whose scale is nothing beside its offset is one value: code 0 and zero 1 stand for it.
    """
    scales, offsets = scales.float().view(-1, 1), offsets.float().view(-1, 1)
    is_constant = (offsets.abs() >= _LARGEST_ZERO * scales.abs()) & (offsets != 0)
    zeros = torch.where(is_constant, 1.0, -offsets / torch.where(scales == 0, 1.0, scales))
    scales = torch.where(is_constant, -offsets, scales)
    return torch.where(is_constant, 0, codes), scales.half(), zeros.half()
