"""Machine instructions that numba has no name for, as functions of kernels."""

from __future__ import annotations

from typing import Any

from llmtools.jit import Instruction

_CODE = "llmtools.machine_code.instruction_code"

load_8: Any = Instruction(_CODE, "load_8")
trailing_zeros: Any = Instruction(_CODE, "trailing_zeros")
count_ones: Any = Instruction(_CODE, "count_ones")
bits_in: Any = Instruction(_CODE, "bits_in")
letter_bits: Any = Instruction(_CODE, "letter_bits")
copy_64: Any = Instruction(_CODE, "copy_64")
store_8: Any = Instruction(_CODE, "store_8")
