"""Machine instructions that numba has no name for, as functions of kernels."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from llmtools.jit import instruction


@instruction
def load_8(typing_context: Any, array: Any, index: Any) -> Any:
    """Eight bytes of an array as one little-endian integer; the caller knows they are there."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        word = ir.IntType(64)
        place = builder.bitcast(builder.gep(data, [arguments[1]]), word.as_pointer())
        return builder.load(place, align=1)

    return types.uint64(array, types.int64), generate


@instruction
def trailing_zeros(typing_context: Any, value: Any) -> Any:
    """How many low bits of a 64-bit integer are 0; 64 for 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@instruction
def count_ones(typing_context: Any, value: Any) -> Any:
    """How many bits of a 64-bit integer are 1."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate
