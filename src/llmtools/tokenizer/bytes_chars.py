"""The characters that stand for bytes in byte-level vocabularies.

Source: GPT-2's encoder: printable Latin-1 stands for itself, other bytes for U+0100 and on.
"""

from __future__ import annotations

import functools

_ITSELF = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]


@functools.cache
def byte_chars() -> list[str]:
    """The character of each byte, by byte."""
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in _ITSELF else next(others)) for byte in range(256)]


@functools.cache
def _bytes_by_char() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_chars())}


def char_byte(character: str) -> int:
    """The byte that a character stands for; KeyError for one that stands for none."""
    return _bytes_by_char()[character]


def token_bytes(token: str) -> bytes | None:
    """The bytes of a byte-level token; None for one with a character that stands for none."""
    known = _bytes_by_char()
    return bytes(known[c] for c in token) if all(c in known for c in token) else None


def token_text(data: bytes) -> str:
    """Bytes as a byte-level token."""
    chars = byte_chars()
    return "".join(chars[byte] for byte in data)
