"""What the instructions of instructions.py are to numba and LLVM, which this imports."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types


def load_8(typing_context: Any, array: Any, index: Any) -> Any:
    """Eight bytes of an array as one little-endian integer; the caller knows they are there."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        word = ir.IntType(64)
        place = builder.bitcast(builder.gep(data, [arguments[1]]), word.as_pointer())
        return builder.load(place, align=1)

    return types.uint64(array, types.int64), generate


def trailing_zeros(typing_context: Any, value: Any) -> Any:
    """How many low bits of a 64-bit integer are 0; 64 for 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


def count_ones(typing_context: Any, value: Any) -> Any:
    """How many bits of a 64-bit integer are 1."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


def bits_in(typing_context: Any, array: Any, index: Any, low: Any, high: Any) -> Any:
    """Which of 64 bytes from `index` on lie in low..high, one bit each, the first one lowest.

    The caller knows that 64 bytes are there.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        loaded = _load_64(context, builder, signature.args[0], arguments)
        first = _repeat_64(builder, arguments[2])
        span = _repeat_64(builder, builder.sub(arguments[3], arguments[2]))
        # Below `low` the difference wraps round to more than the span.
        is_in = builder.icmp_unsigned("<=", builder.sub(loaded, first), span)
        return builder.bitcast(is_in, ir.IntType(64))

    return types.uint64(array, types.int64, types.int64, types.int64), generate


def letter_bits(typing_context: Any, array: Any, index: Any, letter: Any) -> Any:
    """Which of 64 bytes from `index` on are an ASCII letter, given in lower case, in any case."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        loaded = _load_64(context, builder, signature.args[0], arguments)
        lowered = builder.or_(loaded, _repeat_64(builder, ir.Constant(ir.IntType(64), 32)))
        is_same = builder.icmp_unsigned("==", lowered, _repeat_64(builder, arguments[2]))
        return builder.bitcast(is_same, ir.IntType(64))

    return types.uint64(array, types.int64, types.int64), generate


def copy_64(typing_context: Any, target: Any, to: Any, source: Any, start: Any) -> Any:
    """Copy 64 bytes between arrays; the caller knows they are there, and that none is both."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        loaded = _load_64(context, builder, signature.args[2], arguments[2:])
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), loaded.type.as_pointer())
        builder.store(loaded, place, align=1)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64), generate


def store_8(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Write an integer as eight little-endian bytes; the caller knows there is room."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.gep(data, [arguments[1]])
        builder.store(arguments[2], builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint64), generate


def _load_64(context: Any, builder: Any, array_type: Any, arguments: Any) -> Any:
    data = context.make_array(array_type)(context, builder, arguments[0]).data
    vector = ir.VectorType(ir.IntType(8), 64)
    place = builder.bitcast(builder.gep(data, [arguments[1]]), vector.as_pointer())
    return builder.load(place, align=1)


def _repeat_64(builder: Any, value: Any) -> Any:
    """64 times the lowest byte of an integer."""
    vector = ir.VectorType(ir.IntType(8), 64)
    empty = ir.Constant(vector, ir.Undefined)
    byte = builder.trunc(value, ir.IntType(8))
    one = builder.insert_element(empty, byte, ir.Constant(ir.IntType(32), 0))
    every = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
    return builder.shuffle_vector(one, empty, every)
