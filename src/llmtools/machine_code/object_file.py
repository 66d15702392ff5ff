"""From a compiler's object file to an image: a linker for one file that needs only the C library.

ELF-64 for x86-64: System V ABI, AMD64 supplement, chapter 4 (object files, relocations).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from llmtools.machine_code.image import PAGE, Image, address_of

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QIIq")
_X86_64 = 62
_RELOCATABLE = 1
_SYMBOLS, _RELOCATIONS, _ZEROS = 2, 4, 8
_ALLOCATED, _EXECUTABLE = 2, 4
_ABSOLUTE, _COMMON = 0xFFF1, 0xFFF2
# Kinds of relocation. The last three look up an address in a table.
_R_64, _R_PC32, _R_PLT32 = 1, 2, 4
_R_TABLE = (9, 41, 42)
# jmp [rip + distance], where four bytes of distance follow.
_JUMP, _JUMP_BYTES = b"\xff\x25", 6
# For unwinding the stack at C++ exceptions, which kernels do not throw.
_UNWINDING = ".eh_frame"


class UnsupportedCode(Exception):
    """An object file that this linker has no way for."""


class _Section(NamedTuple):
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class _Symbol(NamedTuple):
    name: str
    section: int
    value: int


class _Fix(NamedTuple):
    """A place to be filled in: where it is, and from which symbol."""

    section: int
    offset: int
    kind: int
    symbol: int
    addend: int


class _ObjectFile:
    """The parts of an object file."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        kind, machine = struct.unpack_from("<HH", data, 16)
        if data[:6] != b"\x7fELF\x02\x01" or kind != _RELOCATABLE or machine != _X86_64:
            raise UnsupportedCode("not an object file for x86-64")
        (start,) = struct.unpack_from("<Q", data, 40)
        count, names = struct.unpack_from("<HH", data, 60)
        self.sections = [
            _Section(*_SECTION.unpack_from(data, start + i * _SECTION.size)) for i in range(count)
        ]
        self._names = self.sections[names].offset
        self.symbols = list(self._symbols())

    def text(self, at: int) -> str:
        return self.data[at : self.data.index(b"\0", at)].decode()

    def is_loaded(self, section: _Section) -> bool:
        name = self.text(self._names + section.name)
        return bool(section.flags & _ALLOCATED) and name != _UNWINDING

    def contents(self, section: _Section) -> bytes:
        if section.kind == _ZEROS:
            return bytes(section.size)
        return self.data[section.offset : section.offset + section.size]

    def entries(self, section: _Section, layout: struct.Struct) -> Iterator[tuple[Any, ...]]:
        for at in range(section.offset, section.offset + section.size, layout.size):
            yield layout.unpack_from(self.data, at)

    def _symbols(self) -> Iterator[_Symbol]:
        for section in self.sections:
            if section.kind == _SYMBOLS:
                names = self.sections[section.link].offset
                for name, _, _, place, value, _ in self.entries(section, _SYMBOL):
                    yield _Symbol(self.text(names + name), place, value)


class _Linker:
    """An image in the making: code, jumps to functions, data, a table of addresses."""

    def __init__(self, data: bytes) -> None:
        self.file = _ObjectFile(data)
        self.image = bytearray()
        self.starts: dict[int, int] = {}
        self.places: list[tuple[int, int]] = []
        self.functions: list[tuple[int, str]] = []
        self._slots: dict[int, int] = {}
        self._jumps: dict[int, int] = {}

    def link(self, entry: str, result: Any) -> Image:
        fixes = [fix for fix in self._fixes() if fix.section in self._loaded()]
        self._add_sections(executable=True)
        for fix in fixes:
            if fix.kind == _R_PLT32 and self.file.symbols[fix.symbol].section == 0:
                if fix.symbol not in self._jumps:
                    self._jumps[fix.symbol] = self._reserve(_JUMP_BYTES, 8)
        self._align(PAGE)
        data_at = len(self.image)
        self._add_sections(executable=False)
        for fix in fixes:
            if fix.kind in _R_TABLE or fix.symbol in self._jumps:
                self._add_slot(fix.symbol)
        for symbol, at in self._jumps.items():
            self.image[at : at + 2] = _JUMP
            self._set_distance(at + 2, self._slots[symbol], -4)
        for fix in fixes:
            self._fill(fix)
        self._align(PAGE)
        found = [s for s in self.file.symbols if s.name == entry and s.section]
        if len(found) != 1:
            raise UnsupportedCode(f"no function {entry}")
        return Image(
            code=bytes(self.image),
            data_at=data_at,
            entry=self._address(found[0]),
            places=self.places,
            functions=self.functions,
            result=result,
        )

    def _loaded(self) -> set[int]:
        return {n for n, section in enumerate(self.file.sections) if self.file.is_loaded(section)}

    def _add_sections(self, *, executable: bool) -> None:
        for number in sorted(self._loaded()):
            section = self.file.sections[number]
            if bool(section.flags & _EXECUTABLE) == executable:
                self.starts[number] = self._reserve(section.size, section.alignment)
                at = self.starts[number]
                self.image[at : at + section.size] = self.file.contents(section)

    def _align(self, alignment: int) -> None:
        self.image += bytes(-len(self.image) % max(alignment, 1))

    def _reserve(self, size: int, alignment: int) -> int:
        self._align(alignment)
        at = len(self.image)
        self.image += bytes(size)
        return at

    def _fixes(self) -> Iterator[_Fix]:
        for section in self.file.sections:
            if section.kind == _RELOCATIONS:
                for offset, kind, symbol, addend in self.file.entries(section, _RELOCATION):
                    yield _Fix(section.info, offset, kind, symbol, addend)

    def _address(self, symbol: _Symbol) -> int:
        if symbol.section in (0, _ABSOLUTE, _COMMON) or symbol.section not in self.starts:
            raise UnsupportedCode(f"{symbol.name or 'a symbol'} is not in the file")
        return self.starts[symbol.section] + symbol.value

    def _add_slot(self, number: int) -> None:
        """Eight bytes for the address of a symbol."""
        if number in self._slots:
            return
        symbol = self.file.symbols[number]
        at = self._slots[number] = self._reserve(8, 8)
        if symbol.section:
            self.places.append((at, self._address(symbol)))
        elif address_of(symbol.name) is None:
            raise UnsupportedCode(f"{symbol.name} is not a function of the C library")
        else:
            self.functions.append((at, symbol.name))

    def _fill(self, fix: _Fix) -> None:
        at = self.starts[fix.section] + fix.offset
        symbol = self.file.symbols[fix.symbol]
        if fix.kind == _R_64:
            self.places.append((at, self._address(symbol) + fix.addend))
        elif fix.kind in _R_TABLE:
            self._set_distance(at, self._slots[fix.symbol], fix.addend)
        elif fix.kind == _R_PLT32 and fix.symbol in self._jumps:
            self._set_distance(at, self._jumps[fix.symbol], fix.addend)
        elif fix.kind in (_R_PC32, _R_PLT32):
            self._set_distance(at, self._address(symbol), fix.addend)
        else:
            raise UnsupportedCode(f"a relocation of kind {fix.kind}")

    def _set_distance(self, at: int, target: int, addend: int) -> None:
        distance = target + addend - at
        self.image[at : at + 4] = distance.to_bytes(4, "little", signed=True)


def link(data: bytes, entry: str, result: Any) -> Image:
    """The image of an object file, position-independent code whose function is `entry`.

    Raises UnsupportedCode for what no kernel needs: other machines, other relocations, functions
    that are not of the C library.
    """
    return _Linker(data).link(entry, result)
