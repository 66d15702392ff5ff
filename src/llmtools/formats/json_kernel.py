"""Reading JSON in kernels: strings as they are without escapes, and where values end.

What is read is checked as it goes (RFC 8259, and RFC 3629 for UTF-8), so that what a kernel takes a
parser would take; -1 says that it might not. A line feed stands behind the bytes that are read,
which no JSON on one line goes beyond, and 64 bytes more may be looked at.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmtools.instructions import bits_in, copy_64, trailing_zeros
from llmtools.jit import inlined, kernel

Bytes = npt.NDArray[np.uint8]

_MAX_DEPTH = 60
_MAX_DIGITS = 40
LINE_FEED, RETURN, QUOTE, _BACKSLASH, COMMA, COLON = 0x0A, 0x0D, 0x22, 0x5C, 0x2C, 0x3A
OPEN, CLOSE, _OPEN_LIST, _CLOSE_LIST = 0x7B, 0x7D, 0x5B, 0x5D
_MINUS, _PLUS, _POINT, _ZERO, _NINE = 0x2D, 0x2B, 0x2E, 0x30, 0x39


@inlined
def _hex(buffer: Bytes, at: int) -> int:
    """The number of four hexadecimal digits, or -1."""
    value = 0
    for k in range(4):
        c = int(buffer[at + k])
        if 0x30 <= c <= 0x39:
            digit = c - 0x30
        elif 0x61 <= (c | 0x20) <= 0x66:
            digit = (c | 0x20) - 0x57
        else:
            return -1
        value = value * 16 + digit
    return value


@inlined
def _put(texts: Bytes, to: int, code: int) -> int:
    """Write a character as UTF-8; returns where it ends."""
    if code < 0x80:
        texts[to] = code
        return to + 1
    if code < 0x800:
        texts[to] = 0xC0 | code >> 6
        texts[to + 1] = 0x80 | code & 0x3F
        return to + 2
    if code < 0x10000:
        texts[to] = 0xE0 | code >> 12
        texts[to + 1] = 0x80 | code >> 6 & 0x3F
        texts[to + 2] = 0x80 | code & 0x3F
        return to + 3
    texts[to] = 0xF0 | code >> 18
    texts[to + 1] = 0x80 | code >> 12 & 0x3F
    texts[to + 2] = 0x80 | code >> 6 & 0x3F
    texts[to + 3] = 0x80 | code & 0x3F
    return to + 4


@kernel
def _take_escape(buffer: Bytes, at: int, texts: Bytes, to: int) -> tuple[int, int]:
    """What a backslash at `at` stands for; returns where both end, or -1, -1."""
    c = int(buffer[at + 1])
    if c == 0x6E:
        texts[to] = LINE_FEED
    elif c == QUOTE or c == _BACKSLASH or c == 0x2F:
        texts[to] = c
    elif c == 0x74:
        texts[to] = 0x09
    elif c == 0x72:
        texts[to] = 0x0D
    elif c == 0x62:
        texts[to] = 0x08
    elif c == 0x66:
        texts[to] = 0x0C
    elif c == 0x75:
        code = _hex(buffer, at + 2)
        at += 6
        if 0xD800 <= code < 0xDC00 and buffer[at] == _BACKSLASH and buffer[at + 1] == 0x75:
            low = _hex(buffer, at + 2)
            at += 6
            if not 0xDC00 <= low < 0xE000:
                return -1, -1
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        elif code < 0 or 0xD800 <= code < 0xE000:
            return -1, -1
        return at, _put(texts, to, code)
    else:
        return -1, -1
    return at + 2, to + 1


@inlined
def _width(buffer: Bytes, at: int) -> int:
    """The bytes of a character that is not ASCII; 0 where it is not UTF-8 (RFC 3629)."""
    first, second = int(buffer[at]), int(buffer[at + 1])
    if second & 0xC0 != 0x80:
        return 0
    if 0xC2 <= first < 0xE0:
        return 2
    if buffer[at + 2] & 0xC0 != 0x80:
        return 0
    if 0xE0 <= first < 0xF0:
        is_short = first == 0xE0 and second < 0xA0
        is_surrogate = first == 0xED and second >= 0xA0
        return 0 if is_short or is_surrogate else 3
    if 0xF0 <= first < 0xF5 and buffer[at + 3] & 0xC0 == 0x80:
        is_short = first == 0xF0 and second < 0x90
        is_beyond = first == 0xF4 and second >= 0x90
        return 0 if is_short or is_beyond else 4
    return 0


@kernel
def take_string(buffer: Bytes, at: int, texts: Bytes, to: int) -> tuple[int, int]:
    """Write a string, of which `at` is behind the opening quote, as it is without escapes.

    Returns where both end, the closing quote included, or -1, -1.
    """
    while True:
        special = bits_in(buffer, at, 0, 0x1F) | bits_in(buffer, at, 0x80, 0xFF)
        special |= bits_in(buffer, at, QUOTE, QUOTE)
        special |= bits_in(buffer, at, _BACKSLASH, _BACKSLASH)
        # Of all escapes the line feed is by far the most frequent: the same look at 64 bytes does
        # for those behind it.
        left = 64
        plain = trailing_zeros(special)
        copy_64(texts, to, buffer, at)
        while plain < left - 1 and buffer[at + plain] == _BACKSLASH:
            if buffer[at + plain + 1] != 0x6E:
                break
            at += plain + 2
            to += plain
            texts[to] = LINE_FEED
            to += 1
            left -= plain + 2
            special = (special >> np.uint64(plain)) >> np.uint64(2)
            plain = trailing_zeros(special)
            copy_64(texts, to, buffer, at)
        plain = min(plain, left)
        at += plain
        to += plain
        if plain == left:
            continue
        c = buffer[at]
        if c == QUOTE:
            return at + 1, to
        if c == _BACKSLASH:
            at, to = _take_escape(buffer, at, texts, to)
            if at < 0:
                return -1, -1
            continue
        if c < 0x80:
            return -1, -1
        while buffer[at] >= 0x80:
            width = _width(buffer, at)
            if width == 0:
                return -1, -1
            for k in range(width):
                texts[to + k] = buffer[at + k]
            at += width
            to += width


@inlined
def after_space(buffer: Bytes, at: int) -> int:
    while buffer[at] == 0x20 or buffer[at] == 0x09 or buffer[at] == 0x0D:
        at += 1
    return at


@inlined
def _after_digits(buffer: Bytes, at: int) -> int:
    while _ZERO <= buffer[at] <= _NINE:
        at += 1
    return at


@kernel
def _after_scalar(buffer: Bytes, at: int) -> int:
    """Behind a number, true, false or null; -1 where it is none, or one that is out of the way."""
    c = buffer[at]
    if c == 0x74:
        is_true = buffer[at + 1] == 0x72 and buffer[at + 2] == 0x75 and buffer[at + 3] == 0x65
        return at + 4 if is_true else -1
    if c == 0x6E:
        is_null = buffer[at + 1] == 0x75 and buffer[at + 2] == 0x6C and buffer[at + 3] == 0x6C
        return at + 4 if is_null else -1
    if c == 0x66:
        is_false = buffer[at + 1] == 0x61 and buffer[at + 2] == 0x6C and buffer[at + 3] == 0x73
        return at + 5 if is_false and buffer[at + 4] == 0x65 else -1
    at += 1 if c == _MINUS else 0
    start = at
    at = at + 1 if buffer[at] == _ZERO else _after_digits(buffer, at)
    if at == start:
        return -1
    if buffer[at] == _POINT:
        point = at
        at = _after_digits(buffer, at + 1)
        if at == point + 1:
            return -1
    if at - start > _MAX_DIGITS:
        return -1
    if buffer[at] | 0x20 == 0x65:
        at += 1
        at += 1 if buffer[at] == _MINUS or buffer[at] == _PLUS else 0
        exponent = at
        at = _after_digits(buffer, at)
        # Two digits: no number is then too large, with whatever digits before.
        if not exponent < at <= exponent + 2:
            return -1
    return at


@kernel
def _after_key(buffer: Bytes, at: int, texts: Bytes, to: int) -> int:
    """Behind a key, its colon and space, from where the key may stand; -1 where there is none."""
    at = after_space(buffer, at)
    if buffer[at] != QUOTE:
        return -1
    at, _ = take_string(buffer, at + 1, texts, to)
    if at < 0:
        return -1
    at = after_space(buffer, at)
    return after_space(buffer, at + 1) if buffer[at] == COLON else -1


@kernel
def after_value(buffer: Bytes, at: int, texts: Bytes, to: int) -> int:
    """Behind the value that begins at `at`; -1 where it is not valid, or too deep.

    texts: room from `to` on.
    """
    depth = 0
    # A bit for each container that is open, the innermost lowest: whether it is an object.
    kinds = 0
    while True:
        c = buffer[at]
        if c == OPEN or c == _OPEN_LIST:
            inside = after_space(buffer, at + 1)
            if buffer[inside] != (CLOSE if c == OPEN else _CLOSE_LIST):
                depth += 1
                if depth > _MAX_DEPTH:
                    return -1
                kinds = kinds << 1 | (1 if c == OPEN else 0)
                at = _after_key(buffer, inside, texts, to) if c == OPEN else inside
                if at < 0:
                    return -1
                continue
            at = inside + 1
        elif c == QUOTE:
            at, _ = take_string(buffer, at + 1, texts, to)
        else:
            at = _after_scalar(buffer, at)
        if at < 0:
            return -1
        while depth > 0:
            at = after_space(buffer, at)
            c = buffer[at]
            if c == COMMA:
                break
            if c != (CLOSE if kinds & 1 else _CLOSE_LIST):
                return -1
            kinds >>= 1
            depth -= 1
            at += 1
        if depth == 0:
            return at
        at = _after_key(buffer, at + 1, texts, to) if kinds & 1 else after_space(buffer, at + 1)
        if at < 0:
            return -1
