"""The one layout of quantized weights in memory; quant.repack brings every format into it once.

    K  inputs, padded to whole runs of 64     N  outputs     G  groups of inputs, K / group_size

    codes    uint8 (K / 2, N) for 4 bits, (K, N) for 8: outputs lie beside each other, so that a
             product reads whole lines of memory whatever the tile
    scales   (G, N) fp16, bf16 or fp32
    zeros    (G, N) or None, where all are the middle code, 8 or 128
    table    (16,) fp32 or None

    w = scale * (code - zero)        or        w = scale * table[code]

Byte row 32 r + j of 4-bit codes holds input 64 r + j in its low half and input 64 r + j + 32 in its
high half: the halves of a run are two tiles, each inside one group, since groups are multiples of
32. Interleaving neighbours instead would need a shuffle of every tile in the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llmtools.errors import InputError

RUN = 64
HALF = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWeight:
    """See above. num_inputs: K before padding. order_K: which input of x the k-th row of the
    weight takes (int64), None for its own: GPTQ's groups may be of inputs that lie apart."""

    codes: torch.Tensor
    scales_GN: torch.Tensor
    zeros_GN: torch.Tensor | None
    table: torch.Tensor | None
    bits: int
    group_size: int
    num_inputs: int
    order_K: torch.Tensor | None = None

    @property
    def num_outputs(self) -> int:
        return self.codes.shape[1]

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        parts = (self.codes, self.scales_GN, self.zeros_GN, self.table, self.order_K)
        return sum(part.nbytes for part in parts if part is not None)


def pack_weight(
    codes_KN: torch.Tensor,
    scales_GN: torch.Tensor,
    zeros_GN: torch.Tensor | None = None,
    *,
    bits: int,
    group_size: int,
    table: torch.Tensor | None = None,
    order_K: torch.Tensor | None = None,
) -> PackedWeight:
    """Codes 0 .. 2^bits - 1, one a byte, into the layout.

    codes_KN: uint8, inputs in rows. group_size: inputs of a row of scales, a multiple of 32, or at
    least all inputs. raises: InputError where sizes do not fit together.
    """
    K, N = codes_KN.shape
    if bits not in (4, 8) or (table is not None and (bits != 4 or table.numel() != 16)):
        raise InputError(f"codes of {bits} bits cannot be packed; 4 and 8 can, tables have 4")
    padded = -(-K // RUN) * RUN
    if group_size >= K:
        group_size = max(RUN, padded)
    if group_size % HALF:
        raise InputError(f"groups of {group_size} inputs cannot be packed; multiples of 32 can")
    groups = -(-K // group_size)
    for name, part in (("scales", scales_GN), ("zeros", zeros_GN)):
        if part is not None and tuple(part.shape) != (groups, N):
            raise InputError(f"{name} of shape {tuple(part.shape)}; {(groups, N)} is needed")
    all_groups = -(-padded // group_size)
    codes = torch.zeros(padded, N, dtype=torch.uint8, device=codes_KN.device)
    codes[:K] = codes_KN
    if bits == 4:
        low, high = codes.view(-1, 2, HALF, N).unbind(1)
        codes = (low | (high << 4)).reshape(padded // 2, N)
    return PackedWeight(
        codes=codes,
        scales_GN=_with_rows(scales_GN, all_groups),
        zeros_GN=None if zeros_GN is None else _with_rows(zeros_GN, all_groups),
        table=None if table is None else table.float(),
        bits=bits,
        group_size=group_size,
        num_inputs=K,
        order_K=order_K,
    )


def _with_rows(part: torch.Tensor, rows: int) -> torch.Tensor:
    """Rows of zeros behind it: a scale of nothing, for inputs that are padding."""
    missing = part.new_zeros(rows - part.shape[0], part.shape[1])
    return torch.cat([part, missing]).contiguous()


def unpack_weight(
    codes: torch.Tensor,
    scales_GN: torch.Tensor,
    zeros_GN: torch.Tensor | None,
    table: torch.Tensor | None,
    *,
    bits: int,
    group_size: int,
    num_inputs: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The weight (K, N) that the parts of a PackedWeight stand for, computed in fp32 at least."""
    wide = torch.promote_types(dtype, torch.float32)
    N = codes.shape[1]
    if bits == 4:
        rows = codes.view(-1, HALF, N)
        codes = torch.stack([rows & 15, rows >> 4], 1).view(-1, N)
    scales, zeros = (
        None if part is None else part.to(wide).repeat_interleave(group_size, 0)[: len(codes)]
        for part in (scales_GN, zeros_GN)
    )
    if table is not None:
        values = table.to(wide)[codes.int()]
    elif zeros is None:
        values = codes.to(wide) - (1 << (bits - 1))
    else:
        values = codes.to(wide) - zeros
    assert scales is not None
    return (values * scales)[:num_inputs].to(dtype)
