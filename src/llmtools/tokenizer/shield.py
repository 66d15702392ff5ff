"""Special tokens written out in messages: plain text, whatever the template does with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Encode: TypeAlias = Callable[..., list[int]]

# No character of Unicode's; those that a conversation lacks are free to stand for something.
PRIVATE = range(0x100000, 0x10FFFE)


def free_characters(values: Iterable[Any]) -> Iterator[str]:
    """Private-use characters that occur in none of some JSON values."""
    used = {char for text in strings(values) for char in _PRIVATE.findall(text)}
    return (chr(code) for code in PRIVATE if chr(code) not in used)


_PRIVATE = re.compile(f"[{chr(PRIVATE[0])}-{chr(PRIVATE[-1])}]")


def shield(values: Sequence[Any], special_tokens: Iterable[str]) -> tuple[Any, dict[str, str]]:
    """JSON values whose special tokens are hidden behind single characters.

    Returns the values and what each character stands for: private-use characters that occur nowhere
    in the values.
    """
    tokens = sorted(special_tokens, key=len, reverse=True)
    if not tokens:
        return values, {}
    pattern = re.compile("|".join(map(re.escape, tokens)))
    found = sorted({match for text in strings(values) for match in pattern.findall(text)})
    if not found:
        return values, {}
    free = free_characters(values)
    stand_ins = {token: next(free) for token in found}

    def hide(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda match: stand_ins[match[0]], value)
        if isinstance(value, Mapping):
            return {hide(key): hide(item) for key, item in value.items()}
        return [hide(item) for item in value] if isinstance(value, list | tuple) else value

    return hide(values), {char: token for token, char in stand_ins.items()}


def strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def encode_rendered(text: str, hidden: Mapping[str, str], encode: Encode) -> list[int]:
    """Ids of a rendered conversation; special tokens are parsed, hidden ones are plain text."""
    if not hidden:
        return encode(text, parse_special=True)
    ids: list[int] = []
    for part in re.split("([" + "".join(hidden) + "])", text):
        if part in hidden:
            ids += encode(hidden[part])
        elif part:
            ids += encode(part, parse_special=True)
    return ids
