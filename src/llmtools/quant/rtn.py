"""Round-to-nearest: which stored type each tensor gets under a scheme.

    scheme  matrices  embedding and head  vectors
    F16     F16       F16                 F32
    Q8_0    Q8_0      Q8_0                F32
    Q4_0    Q4_0      Q8_0                F32

llama.cpp keeps the output matrix of a Q4_0 file in Q6_K, since its error reaches every logit; until
that codec exists here, Q8_0 stands for it and for the embedding, which is the same matrix in a tied
model. A matrix whose rows are not whole blocks of 32 stays F16.
"""

from __future__ import annotations

from typing import Literal, get_args

from llmtools.formats.block_codecs import BLOCK_TYPES

Scheme = Literal["Q8_0", "Q4_0", "F16"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
# llama.cpp's general.file_type.
FILE_TYPES: dict[Scheme, int] = {"F16": 1, "Q4_0": 2, "Q8_0": 7}
_OUTER_MATRICES = ("token_embd.weight", "output.weight")


def stored_type(name: str, shape: tuple[int, ...], scheme: Scheme) -> str:
    """The type of one tensor, by its GGUF name and shape."""
    if len(shape) == 1:
        return "F32"
    wanted = "Q8_0" if scheme == "Q4_0" and name in _OUTER_MATRICES else scheme
    return "F16" if shape[-1] % BLOCK_TYPES[wanted].block_size else wanted


def is_fallback(name: str, shape: tuple[int, ...], scheme: Scheme) -> bool:
    """Whether a matrix stays F16 because its rows are not whole blocks."""
    return len(shape) > 1 and scheme != "F16" and stored_type(name, shape, scheme) == "F16"
