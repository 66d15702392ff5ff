"""The compiler of kernels: numba, imported only where there is something to compile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import entrypoints
from numba.core.caching import FunctionCache
from numba.core.registry import cpu_target
from numba.core.runtime.nrt import rtsys
from numba.extending import intrinsic

from llmtools.machine_code.calls import is_plain
from llmtools.machine_code.image import Image
from llmtools.machine_code.object_file import UnsupportedCode, link

# What other installed packages add to numba (entry points `numba_extensions`) is of no use to these
# kernels, and importing such packages can take longer than all else; numba loads them once at most.
entrypoints._already_initialized = True

# numba's description of an allocated block (numba/core/runtime/nrt.cpp, MemInfo): how many refer to
# it, then two fields that stay empty, then where the data begins.
_HEAD_BYTES, _DATA_FIELD = 48, 3
_ALIGNMENT = 16
_POINTER = ir.IntType(8).as_pointer()
_ENTRY = "llmtools_entry"


class _Stored(FunctionCache):
    """Code that numba stores in files of its own, loaded without making the compiler ready.

    numba takes it for outdated when the kernel's file has changed; here when its stamp has.
    """

    def __init__(self, function: Callable[..., Any], stamp: Callable[[], str]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        self._stamp = stamp

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is stored for a signature, or None.

        numba registers everything it can compile before it looks, for 0.1 s, which stored code has
        no use for; a compilation does that too when it begins. What runs needs the memory manager.
        """
        rtsys.initialize(target_context)
        self._cache_file._source_stamp = self._stamp()
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)  # type: ignore[no-untyped-call]


def dispatcher(function: Callable[..., Any], *, stamp: Callable[[], str] | None = None) -> Any:
    """A kernel as numba has it; with `stamp`, what it is made from, numba stores the code too."""
    if stamp is None:
        return njit(function)
    try:
        compiled: Any = njit(cache=True)(function)
        compiled._cache = _Stored(function, stamp)
    except RuntimeError:
        # No folder can be written: each process compiles for itself instead of failing.
        return njit(function)
    return compiled


def inlined_dispatcher(function: Callable[..., Any]) -> Any:
    """A function that becomes part of each kernel that calls it."""
    return njit(forceinline=True)(function)


def instruction_type(function: Callable[..., Any]) -> Any:
    """What numba takes a function for that writes its own LLVM code."""
    context = cpu_target.typing_context
    found = intrinsic(function)
    context.refresh()
    return context.resolve_value_type(found)


def export(compiled: Any, arguments: tuple[Any, ...]) -> Image:
    """The image of what a dispatcher compiles for these arguments.

    Raises UnsupportedCode where it cannot stand alone.
    """
    signature = tuple(compiled.typeof_pyval(value) for value in arguments)
    compiled.compile(signature)
    found = compiled.overloads[signature]
    result = _described(found.signature.return_type)
    if not is_plain(result):
        raise UnsupportedCode("a result with padding inside")
    return link(_object_file(found), _ENTRY, result)


def _described(result: Any) -> Any:
    """A type of numba's, as calls.py describes results."""
    if isinstance(result, types.NoneType):
        return "n"
    if isinstance(result, types.Tuple | types.UniTuple):
        return [_described(part) for part in result.types]
    if isinstance(result, types.Array):
        return {"dtype": np.dtype(str(result.dtype)).str, "ndim": result.ndim}
    if isinstance(result, types.Boolean):
        return "?"
    if isinstance(result, types.Integer | types.Float):
        return np.dtype(str(result)).char.translate(str.maketrans("lL", "qQ"))
    raise UnsupportedCode(f"a result of type {result}")


def _object_file(compiled: Any) -> bytes:
    """Compile a library's final code once more, alone and for any place in memory."""
    module = binding.parse_assembly(str(compiled.library.get_llvm_str()))
    for added in (_allocation(), _entry(compiled)):
        added.triple, added.data_layout = module.triple, module.data_layout
        module.link_in(binding.parse_assembly(str(added)))
    for named in (*module.functions, *module.global_variables):
        if not named.is_declaration and named.name != _ENTRY:
            named.linkage = "internal"
    # With the features that numba found: some of a processor may be switched off.
    triple, cpu, features = compiled.library.codegen.magic_tuple()
    machine = binding.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small"
    )
    options = binding.create_pipeline_tuning_options(speed_level=0)
    builder = binding.create_pass_builder(machine, options)
    passes = binding.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, builder)
    return bytes(machine.emit_object(module))


def _entry(compiled: Any) -> ir.Module:
    """A function that reads arrays of numpy's objects and calls the compiled one.

    numpy/ndarraytypes.h, PyArrayObject_fields: behind the head that all objects have there are the
    address of the elements, the number of dimensions, and the addresses of sizes and strides.
    """
    context, described = compiled.target_context, compiled.fndesc
    module = ir.Module()
    inner_type = context.call_conv.get_function_type(described.restype, described.argtypes)
    inner = ir.Function(module, inner_type, described.llvm_func_name)
    leaves = list(_leaves(described.argtypes))
    taken = [
        _POINTER if isinstance(leaf, types.Array) else context.get_argument_type(leaf)
        for leaf in leaves
    ]
    signature = ir.FunctionType(inner_type.return_type, [*inner_type.args[:2], *taken])
    function = ir.Function(module, signature, _ENTRY)
    builder = ir.IRBuilder(function.append_basic_block())
    given = iter(function.args[2:])

    def value_of(kind: Any) -> Any:
        if isinstance(kind, types.Tuple | types.UniTuple):
            return context.make_tuple(builder, kind, [value_of(part) for part in kind.types])
        if isinstance(kind, types.Array):
            return _array(context, builder, kind, next(given))
        return context.data_model_manager[kind].from_argument(builder, next(given))

    packed = context.get_arg_packer(described.argtypes).as_arguments(
        builder, [value_of(kind) for kind in described.argtypes]
    )
    builder.ret(builder.call(inner, [*function.args[:2], *packed]))
    return module


def _leaves(kinds: Iterable[Any]) -> Iterator[Any]:
    for kind in kinds:
        if isinstance(kind, types.Tuple | types.UniTuple):
            yield from _leaves(kind.types)
        else:
            yield kind


def _array(context: Any, builder: Any, kind: Any, found: Any) -> Any:
    """An array as compiled code has it, of one of numpy's objects."""
    long = ir.IntType(64)

    def field(at: int, field_type: Any) -> Any:
        place = builder.gep(found, [ir.Constant(long, object.__basicsize__ + 8 * at)])
        return builder.load(builder.bitcast(place, field_type.as_pointer()))

    def numbers(at: int) -> Any:
        start = field(at, long.as_pointer())
        each = [builder.load(builder.gep(start, [ir.Constant(long, n)])) for n in range(kind.ndim)]
        return context.make_tuple(builder, types.UniTuple(types.intp, kind.ndim), each)

    array = context.make_array(kind)(context, builder)
    element = context.get_data_type(kind.dtype)
    context.populate_array(
        array,
        data=builder.bitcast(field(0, _POINTER), element.as_pointer()),
        shape=numbers(2),
        strides=numbers(3),
        itemsize=context.get_constant(types.intp, context.get_abi_sizeof(element)),
        meminfo=None,
        parent=None,
    )
    return array._getvalue()


def _allocation() -> ir.Module:
    """The functions of numba's runtime that kernels call, over malloc and free.

    MemInfo is for arrays, the others for what goes with an exception.
    """
    module = ir.Module()
    long, pointer, nothing = ir.IntType(64), _POINTER, ir.VoidType()
    malloc = ir.Function(module, ir.FunctionType(pointer, [long]), "malloc")
    free = ir.Function(module, ir.FunctionType(nothing, [pointer]), "free")

    def define(name: str, result: Any, *arguments: Any) -> tuple[Any, Any]:
        function = ir.Function(module, ir.FunctionType(result, arguments), name)
        return ir.IRBuilder(function.append_basic_block()), function.args

    builder, (size, alignment) = define("NRT_MemInfo_alloc_aligned", pointer, long, ir.IntType(32))
    allocate = builder.function
    head, alignment = ir.Constant(long, _HEAD_BYTES), builder.zext(alignment, long)
    block = builder.call(malloc, [builder.add(builder.add(size, alignment), head)])
    with builder.if_then(builder.icmp_unsigned("!=", block, ir.Constant(pointer, None))):
        data = builder.add(builder.add(builder.ptrtoint(block, long), head), alignment)
        data = builder.and_(builder.sub(data, ir.Constant(long, 1)), builder.neg(alignment))
        fields = builder.bitcast(block, long.as_pointer())
        builder.store(ir.Constant(long, 1), fields)
        builder.store(data, builder.gep(fields, [ir.Constant(long, _DATA_FIELD)]))
    builder.ret(block)

    builder, (size,) = define("NRT_MemInfo_alloc", pointer, long)
    builder.ret(builder.call(allocate, [size, ir.Constant(ir.IntType(32), _ALIGNMENT)]))
    builder, (size,) = define("NRT_Allocate", pointer, long)
    builder.ret(builder.call(malloc, [size]))
    for name in ("NRT_MemInfo_call_dtor", "NRT_Free"):
        builder, (block,) = define(name, nothing, pointer)
        builder.call(free, [block])
        builder.ret_void()
    return module
