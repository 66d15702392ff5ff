"""Damage to files: blind (bytes) and informed (JSON nodes, headers, lengths), all from one seed."""

from __future__ import annotations

import gzip
import json
import random
import struct
from collections.abc import Callable
from typing import Any

import zstandard

Mutator = Callable[[bytes, random.Random], bytes]

INTEGERS = [0, 1, 2, 3, 7, 8, 255, 256, 4096, 65535, 1 << 20, 2**31 - 1, 2**31, 2**32 - 1,
            2**40, 2**48, 2**62, 2**63 - 1, 2**63, 2**64 - 1]  # fmt: skip
DEEP = "[" * 5000 + "]" * 5000


def odd_value(chance: random.Random) -> Any:
    """A value that a reader may not expect."""
    return chance.choice(
        [
            None, True, False, -1, -(2**31), -(2**63), 0.5, -0.0, 1e308, 1e-320, float("inf"),
            float("nan"), "", " ", "\x00", "\ud800", "é" * 3, "x" * 5000, "1", "-1", "llama",
            "../../etc/passwd", "/", [], {}, [[]], [None], [0], ["x"], {"": None}, {"a": {"a": 1}},
            *INTEGERS, [2**40, 2**40], [1, -1],
        ]
    )  # fmt: skip


def in_bytes(data: bytes, chance: random.Random) -> bytes:
    """A few blind changes, or none of the file at all."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(out) + 1)
        # The start of a file says how to read the rest: half of the damage goes there.
        if chance.random() < 0.5:
            at = min(at, chance.randrange(256))
        length = chance.choice((1, 1, 2, 4, 8, 16, 100, 1000))
        kind = chance.randrange(7)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            out[at : at + length] = chance.randbytes(length)
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            out[at:at] = chance.randbytes(length)
        elif kind == 5:
            out[at:at] = out[at : at + length] * chance.choice((1, 2, 50))
        else:
            size = chance.choice((2, 4, 8))
            number = chance.choice(INTEGERS) % (1 << 8 * size)
            out[at : at + size] = number.to_bytes(size, "little")
    return bytes(out)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value, at most 2,000 of each container."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        node = waiting.pop()
        keys = list(node)[:2000] if isinstance(node, dict) else range(min(len(node), 2000))
        for key in keys:
            found.append((node, key))
            if isinstance(node[key], dict | list):
                waiting.append(node[key])
    return found


def _change_node(value: Any, chance: random.Random) -> None:
    places = _places(value)
    if not places:
        return
    # Short containers hold settings, long ones entries of one kind: both get their share.
    settings = [(node, key) for node, key in places if len(node) < 100]
    node, key = chance.choice(settings if settings and chance.random() < 0.8 else places)
    kind = chance.randrange(6)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[chance.choice(("", "x", "é", "__class__", "dtype", "type", f"{key} "))] = node.pop(key)
    elif kind == 2:
        other, other_key = chance.choice(places)
        try:
            node[key] = json.loads(json.dumps(other[other_key]))
        except (KeyError, IndexError):
            node[key] = None
    elif kind == 3 and isinstance(node[key], int | float):
        node[key] = chance.choice((node[key] + 1, node[key] - 1, -node[key], node[key] * 2))
    else:
        node[key] = odd_value(chance)


def in_json(data: bytes, chance: random.Random) -> bytes:
    """One to three nodes changed; sometimes the whole, its syntax or its bytes."""
    if chance.random() < 0.15:
        return in_bytes(data, chance)
    if chance.random() < 0.05:
        return chance.choice((b"", b"null", b"[]", b"{}", b"1", DEEP.encode(), b"\xff\xfe{}"))
    value = json.loads(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        _change_node(value, chance)
    text = json.dumps(value)
    if chance.random() < 0.02:
        text = text.replace("1", DEEP, 1)
    return text.encode()


def in_lines(data: bytes, chance: random.Random) -> bytes:
    """One line changed as JSON, or the lines moved about, or bytes."""
    lines = data.splitlines(keepends=True)
    if chance.random() < 0.25 or not lines:
        return in_bytes(data, chance)
    at = chance.randrange(len(lines))
    if chance.random() < 0.2:
        lines[at] = chance.choice((b"", b"\n\n\n", b"\r\n", lines[at] * 3, b"\xef\xbb\xbf{}\n"))
    else:
        lines[at] = in_json(lines[at], chance) + b"\n"
    return b"".join(lines)


def compressed(kind: str, inner: Mutator) -> Mutator:
    """Damage inside or outside of a compressed file."""
    pack = gzip.compress if kind == "gz" else zstandard.ZstdCompressor().compress
    unpack: Callable[[bytes], bytes] = (
        gzip.decompress if kind == "gz" else lambda d: zstandard.ZstdDecompressor().decompress(d)
    )

    def mutate(data: bytes, chance: random.Random) -> bytes:
        if chance.random() < 0.6:
            return in_bytes(data, chance)
        if chance.random() < 0.05:
            # A hundred megabytes in a few kilobytes, without a single line end.
            return pack(b" " * 100_000_000)
        return pack(inner(unpack(data), chance))

    return mutate


def in_safetensors(data: bytes, chance: random.Random) -> bytes:
    """The header's JSON or its length; or bytes, or the tensors alone."""
    (size,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + size], data[8 + size :]
    kind = chance.random()
    if kind < 0.15:
        return in_bytes(data, chance)
    if kind < 0.25:
        return struct.pack("<Q", chance.choice([*INTEGERS, size - 1, size + 1])) + data[8:]
    if kind < 0.45:
        return data[: 8 + size] + in_bytes(body, chance)[: len(body)].ljust(len(body), b"\x7f")
    changed = in_json(header, chance)
    if kind < 0.6:
        body += bytes(chance.choice((1, 8, 1000)))
    return struct.pack("<Q", len(changed)) + changed + body


def in_gguf(data: bytes, chance: random.Random) -> bytes:
    """Numbers and text of the header, the tensors, or bytes."""
    kind = chance.random()
    if kind < 0.3:
        return in_bytes(data, chance)
    out = bytearray(data)
    header = max(data.find(b"output_norm.weight"), 100)
    for _ in range(chance.choice((1, 1, 2))):
        if kind < 0.5:
            at, size = chance.randrange(min(len(out), 64)) & ~3, 4
        elif kind < 0.9:
            # Just behind a key or a name: its type, its length, its dims.
            marks = [i for i in range(4, min(header, 4000)) if out[i - 1] > 96 > out[i]]
            at, size = chance.choice(marks or [24]), chance.choice((4, 8))
        else:
            at, size = chance.randrange(len(out)), 8
        number = chance.choice([*INTEGERS, len(data), len(data) // 4])
        out[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, "little")
    return bytes(out)


def in_text(data: bytes, chance: random.Random) -> bytes:
    """Words replaced, doubled and dropped, values made odd, and bytes."""
    if chance.random() < 0.2:
        return in_bytes(data, chance)
    words = data.decode().split(" ")
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(words))
        kind = chance.randrange(4)
        if kind == 0:
            words[at] = json.dumps(odd_value(chance))
        elif kind == 1:
            words[at] += " " + words[at]
        elif kind == 2:
            words[at] = ""
        else:
            words[at] = chance.choice(words)
    return " ".join(words).encode("utf-8", "surrogatepass")


def in_template(data: bytes, chance: random.Random) -> bytes:
    """Text damage, and constructs that a template from a stranger may hold."""
    if chance.random() < 0.6:
        return in_text(data, chance)
    extra = chance.choice(
        (
            b"{{ ''.__class__.__mro__ }}", b"{% include 'x' %}", b"{% import 'os' as os %}",
            b"{{ messages.append(1) }}", b"{{ 1 / 0 }}", b"{{ undefined.a.b }}", b"{% for %}",
            b"{{ raise_exception('no') }}", b"{{ messages[99].role }}", b"{{ 'a' + 1 }}",
            b"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", b"{{ messages | tojson }}",
            b"{{ strftime_now('%Y') }}", b"{{ '%s' % 1 }}", b"{{ range(999999999) | list }}",
            b"{{ '{0.__class__}'.format(1) }}", b"{% set x = x %}{{ x }}", b"\xff\xfe",
        )
    )  # fmt: skip
    at = chance.choice((0, len(data)))
    return data[:at] + extra + data[at:]
