"""Triton's interpreter (TRITON_INTERPRET=1) made right for bf16 and fp8.

The interpreter keeps bf16 in 16-bit integers and computes with those integers: sums and products
are garbage, and casts truncate where hardware rounds to nearest even. `install` makes it compute in
fp32 and round with torch's own casts. It wraps private classes of triton.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

_DTYPES = {
    tl.bfloat16: torch.bfloat16,
    tl.float8e5: torch.float8_e5m2,
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e4b8: torch.float8_e4m3fnuz,
    tl.float8e5b16: torch.float8_e5m2fnuz,
}
_STORED = {1: torch.uint8, 2: torch.int16}
_FLOAT_OPS = tuple(
    f"create_{name}"
    for name in ("f min max clampf precise exp log sqrt rsqrt sin cos erf floor ceil".split())
)


def _scalar(dtype: Any) -> Any:
    return getattr(dtype, "scalar", dtype)


def _widen(data: np.ndarray, dtype: Any) -> np.ndarray:
    stored = np.ascontiguousarray(data).view(np.int16 if data.itemsize == 2 else np.uint8)
    wide: np.ndarray = torch.from_numpy(stored).view(_DTYPES[dtype]).float().numpy()
    out: np.ndarray = wide.reshape(np.shape(data))
    return out


def _narrow(data: np.ndarray, dtype: Any) -> np.ndarray:
    rounded = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32)).to(_DTYPES[dtype])
    stored: np.ndarray = rounded.view(_STORED[rounded.element_size()]).numpy()
    out: np.ndarray = stored.view(interpreter._get_np_dtype(dtype)).reshape(np.shape(data))
    return out


def _cast(data: np.ndarray, source: Any, target: Any) -> np.ndarray:
    wide = _widen(data, source) if source in _DTYPES else np.asarray(data).astype(np.float32)
    if target in _DTYPES:
        return _narrow(wide, target)
    return wide.astype(interpreter._get_np_dtype(target))


def _is_bf16(value: Any) -> bool:
    is_handle = isinstance(value, interpreter.TensorHandle)
    return is_handle and _scalar(value.dtype) == tl.bfloat16


def _up(value: Any) -> Any:
    if not _is_bf16(value):
        return value
    return interpreter.TensorHandle(_widen(value.data, tl.bfloat16), tl.float32)


def _in_fp32(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    def compute(self: Any, *args: Any, **named: Any) -> Any:
        if not any(map(_is_bf16, args)):
            return operation(self, *args, **named)
        found = operation(self, *map(_up, args), **named)
        if "cmp" in name or _scalar(found.dtype) != tl.float32:
            return found
        return interpreter.TensorHandle(_narrow(found.data, tl.bfloat16), tl.bfloat16)

    return compute


def _fold_in_fp32(operation: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction or scan over tensors, bf16 ones widened before and rounded after."""

    def compute(self: Any, given: Any) -> Any:
        inputs = given if isinstance(given, tuple) else (given,)
        is_narrow = [one.dtype.scalar == tl.bfloat16 for one in inputs]
        if not any(is_narrow):
            return operation(self, given)
        wide = tuple(
            self.to_tensor(_widen(one.handle.data, tl.bfloat16), tl.float32) if narrow else one
            for one, narrow in zip(inputs, is_narrow, strict=True)
        )
        found = operation(self, wide if isinstance(given, tuple) else wide[0])
        outputs = found if isinstance(found, tuple | list) else (found,)
        rounded = tuple(
            self.to_tensor(_narrow(one.handle.data, tl.bfloat16), tl.bfloat16)
            if narrow and one.dtype.scalar == tl.float32
            else one
            for one, narrow in zip(outputs, is_narrow, strict=False)
        )
        return rounded if isinstance(found, tuple | list) else rounded[0]

    return compute


def install() -> None:
    """Mend the interpreter of this process, once."""
    builder = interpreter.InterpreterBuilder
    if hasattr(builder, "llmtools_mended"):
        return
    convert = interpreter._convert_float

    def convert_float(data: np.ndarray, source: Any, target: Any, rounding: Any) -> np.ndarray:
        source, target = _scalar(source), _scalar(target)
        is_known = source in _DTYPES or target in _DTYPES
        if is_known and "rtz" not in str(rounding).lower():
            return _cast(data, source, target)
        found: np.ndarray = convert(data, source, target, rounding)
        return found

    def cast(self: Any, value: Any, target: Any) -> Any:
        source, wanted = _scalar(value.dtype), _scalar(target)
        if source in _DTYPES or wanted in _DTYPES:
            return interpreter.TensorHandle(_cast(value.data, source, wanted), wanted)
        data = value.data.astype(interpreter._get_np_dtype(wanted))
        return interpreter.TensorHandle(data, wanted)

    interpreter._convert_float = convert_float
    for name in dir(builder):
        if name.startswith(_FLOAT_OPS) and not name.startswith("create_fp_"):
            setattr(builder, name, _in_fp32(name, getattr(builder, name)))
    dot = builder.create_dot
    builder.create_dot = lambda self, a, b, d, *rest: dot(self, _up(a), _up(b), d, *rest)
    for name in ("si_to_fp", "ui_to_fp", "fp_to_si", "fp_to_ui", "fp_ext", "fp_trunc"):
        setattr(builder, f"create_{name}", cast)
    for fold in (interpreter.ReduceOps, interpreter.ScanOps):
        fold.apply_impl = _fold_in_fp32(fold.apply_impl)
    builder.llmtools_mended = True
