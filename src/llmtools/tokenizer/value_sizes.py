"""How large a value a step of a chat template is about to make, known before it is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2.exceptions import SecurityError

from llmtools.tokenizer.budget import ITEM_CHARS, PIECE_CHARS, current

MAX_INTEGER_BITS = 256
MAX_FILTER_INTEGER = 1 << 16
MAX_FORMAT_WIDTH = 9999
_LINE_ENDS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def _occurrences(text: str, part: Any, count: Any = -1) -> int:
    found = text.count(part) if isinstance(part, str) else 0
    return min(found, count) if isinstance(count, int) and count >= 0 else found


def _width(text: str, width: int = 0, *_: Any) -> int:
    return max(len(text), width)


def _replace_size(text: str, old: str = "", new: str = "", count: Any = -1) -> int:
    return len(text) + _occurrences(text, old, count) * len(new)


def _join_size(separator: str, values: Any = ()) -> int:
    count = len(values) if hasattr(values, "__len__") else 0
    return current().weigh(values) + len(separator) * count


def _split_size(text: str, sep: Any = None, maxsplit: Any = -1) -> int:
    pieces = (len(text) + 1) // 2 if sep is None else _occurrences(text, sep, maxsplit)
    if isinstance(maxsplit, int) and maxsplit >= 0:
        pieces = min(pieces, maxsplit)
    return len(text) + PIECE_CHARS * (1 + pieces)


# How many characters a method of a string may make; of the others, as many as the string has.
METHOD_SIZES: Mapping[str, Callable[..., int]] = {
    "center": _width,
    "expandtabs": lambda text, tabsize=8: len(text) + text.count("\t") * tabsize,
    "join": _join_size,
    "ljust": _width,
    "replace": _replace_size,
    "rjust": _width,
    "rsplit": _split_size,
    "split": _split_size,
    "splitlines": lambda text, *_, **__: len(text) + PIECE_CHARS * len(_LINE_ENDS.findall(text)),
    "title": lambda text: len(text),
    "zfill": _width,
}
_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\*|\d*)(?:\.(\*|\d*))?")


def _printf_size(pattern: str, values: Any) -> int:
    """Of `pattern % values`, whose widths are bounded."""
    fields = _PERCENT.findall(pattern)
    for width in (number for field in fields for number in field):
        check_width(width)
    return len(pattern) + len(fields) * (current().weigh(values) + MAX_FORMAT_WIDTH // 100)


def check_width(width: str) -> None:
    """Raise SecurityError for a width of a format that is not small."""
    if width == "*" or (width and (len(width) > 4 or int(width) > MAX_FORMAT_WIDTH)):
        raise SecurityError(f"the width {width} of a format grows too large")


def _json_size(
    value: Any,
    ensure_ascii: Any = False,
    indent: Any = None,
    separators: Any = None,
    *_: Any,
    **__: Any,
) -> int:
    width = sum(len(text) for text in separators or () if isinstance(text, str))
    if indent is not None:
        width += (indent if isinstance(indent, int) else len(indent)) * _depth(value)
    return current().weigh(value) * (1 + width // 4)


def _depth(value: Any) -> int:
    """How many lists and dictionaries a value has inside one another."""
    current().weigh(value)
    depth, level = 0, [value]
    while level := [
        item
        for one in level
        if isinstance(one, list | tuple | dict)
        for item in (one.values() if isinstance(one, dict) else one)
    ]:
        depth += 1
    return depth


FILTER_SIZES: Mapping[str, Callable[..., int]] = {
    "format": lambda text, *args, **named: _printf_size(str(text), args or named),
    "indent": lambda text, width=4, *_, **__: (
        len(text) + (width if isinstance(width, int) else len(width)) * (1 + text.count("\n"))
    ),
    "join": lambda values, d="", *_, **__: _join_size(str(d), values),
    "list": lambda value: (PIECE_CHARS // 4) * len(value) if isinstance(value, str) else 0,
    "replace": lambda text, old, new, count=-1: _replace_size(str(text), str(old), str(new), count),
    "tojson": _json_size,
    "title": lambda text: PIECE_CHARS * len(text) // 2,
}


def check_binop(operator: str, left: Any, right: Any) -> int:
    """About the characters that an operator makes; raises SecurityError for huge numbers."""
    numbers = [one for one in (left, right) if isinstance(one, int)]
    if len(numbers) == 2 or operator != "*":
        bits = sum(one.bit_length() for one in numbers)
        if operator == "**" and len(numbers) == 2:
            bits = left.bit_length() * max(right, 1)
        if bits > MAX_INTEGER_BITS:
            raise SecurityError("a number grows too large")
    if operator == "%" and isinstance(left, str):
        return _printf_size(left, right)
    sizes = [_surface(left), _surface(right)]
    if operator == "*" and numbers:
        return max(sizes) * max(numbers[0], 0)
    return sum(sizes)


def _surface(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    return ITEM_CHARS * len(value) if isinstance(value, list | tuple | dict | set) else 0
