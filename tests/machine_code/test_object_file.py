from __future__ import annotations

import ctypes
from dataclasses import replace

import pytest

from llmtools.machine_code.image import address_of, from_bytes, is_supported, load
from llmtools.machine_code.object_file import UnsupportedCode, link

pytestmark = pytest.mark.skipif(not is_supported(), reason="numba alone serves this machine")

# A table of addresses, a function of its own, one of the C library, a global that is written.
CODE = """
@numbers = internal constant [3 x i64] [i64 5, i64 7, i64 11]
@places = internal constant [3 x ptr] [
    ptr @numbers,
    ptr getelementptr (i64, ptr @numbers, i64 1),
    ptr getelementptr (i64, ptr @numbers, i64 2)]
@calls = internal global i64 0
declare double @pow(double, double)
define internal i64 @look(i64 %at) noinline {
    %slot = getelementptr ptr, ptr @places, i64 %at
    %place = load ptr, ptr %slot
    %number = load i64, ptr %place
    ret i64 %number
}
define i64 @entry(i64 %at) {
    %before = load volatile i64, ptr @calls
    %after = add i64 %before, 100
    store volatile i64 %after, ptr @calls
    %number = call i64 @look(i64 %at)
    %real = sitofp i64 %number to double
    %power = call double @pow(double %real, double 2.0)
    %whole = fptosi double %power to i64
    %sum = add i64 %whole, %after
    ret i64 %sum
}
"""


def object_file(code: str, triple: str | None = None) -> bytes:
    from llvmlite import binding

    import llmtools.machine_code.compiler  # noqa: F401 (makes LLVM ready)

    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple(triple or binding.get_process_triple())
    machine = target.create_target_machine(opt=0, reloc="pic", codemodel="small")
    module = binding.parse_assembly(code)
    module.triple = triple or binding.get_process_triple()
    return bytes(machine.emit_object(module))


def test_code_data_and_functions_are_linked() -> None:
    image = link(object_file(CODE), "entry", "q")
    assert {name for _, name in image.functions} == {"pow"} and len(image.places) >= 3
    # Two of it: each has data of its own.
    for _ in range(2):
        run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(load(image))
        assert [run(0), run(1), run(2)] == [125, 249, 421]
    # The twin: a table that points elsewhere.
    moved = [(at, target + 8) for at, target in image.places]
    run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(load(replace(image, places=moved)))
    assert run(0) != 125


def test_an_image_is_stored_and_read() -> None:
    image = link(object_file(CODE), "entry", ["q", {"dtype": "<i8", "ndim": 1}])
    stored = image.to_bytes("made of this")
    assert from_bytes(stored, "made of this") is not None
    assert from_bytes(stored, "made of that") is None
    assert all(from_bytes(stored[:size], "made of this") is None for size in range(200))
    loaded = from_bytes(stored, "made of this")
    assert loaded is not None and loaded.code == image.code and loaded.result == image.result


def test_code_that_needs_more_than_the_c_library_is_refused() -> None:
    with pytest.raises(UnsupportedCode, match="no_such_function"):
        link(object_file(CODE.replace("@pow", "@no_such_function")), "entry", "q")
    with pytest.raises(UnsupportedCode, match="no function other"):
        link(object_file(CODE), "other", "q")
    with pytest.raises(UnsupportedCode, match="not an object file"):
        link(b"\x7fELF" + bytes(80), "entry", "q")
    with pytest.raises(UnsupportedCode, match="not an object file"):
        link(object_file(CODE, "aarch64-linux-gnu"), "entry", "q")
    assert address_of("no_such_function") is None
