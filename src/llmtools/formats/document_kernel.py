"""The kernel that takes texts and ids out of JSON lines, of which most are plain.

It takes only what it is sure of: a line with an object that is valid JSON in UTF-8, with one text
and at most one id. All else is left to a JSON parser, which knows better and says what is wrong.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmtools.formats.json_kernel import (
    CLOSE,
    COLON,
    COMMA,
    LINE_FEED,
    OPEN,
    QUOTE,
    RETURN,
    after_space,
    after_value,
    take_string,
)
from llmtools.instructions import bits_in, trailing_zeros
from llmtools.jit import inlined, kernel

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]

# Bytes behind a block that may be read, and behind texts that may be written.
PADDING = 64
# Columns of a line: its bytes, without its end; its text, in the texts, -1 where it was not taken;
# its id in the block, -1 where it has none; the JSON string of its text in the line.
START, STOP, TEXT, TEXT_END, ID, ID_END, SPAN, SPAN_END = range(8)
COLUMNS = 8

_NONE = np.uint64(0)


@inlined
def _is_same(buffer: Bytes, start: int, stop: int, key: Bytes) -> bool:
    if stop - start != key.size:
        return False
    for k in range(key.size):
        if buffer[start + k] != key[k]:
            return False
    return True


@kernel
def _take_document(
    buffer: Bytes,
    start: int,
    text_key: Bytes,
    id_key: Bytes,
    metadata_key: Bytes,
    texts: Bytes,
    to: int,
    line: Integers,
) -> int:
    """Take the document of the line that begins at `start`; returns where the line feed stands.

    -1 where it is not plain.
    """
    line[ID], line[TEXT] = -1, -1
    if buffer[start] != OPEN:
        return -1
    text, at = -1, start
    while True:
        key = after_space(buffer, at + 1)
        if buffer[key] != QUOTE:
            return -1
        key += 1
        key_end, written = take_string(buffer, key, texts, to)
        if key_end < 0 or written - to != key_end - 1 - key:
            return -1
        colon = after_space(buffer, key_end)
        if buffer[colon] != COLON:
            return -1
        at = after_space(buffer, colon + 1)
        first = buffer[at]
        if _is_same(buffer, key, key_end - 1, text_key):
            # What has two texts is left to the parser.
            if text >= 0 or first != QUOTE:
                return -1
            text = to
            line[SPAN] = at - start
            at, to = take_string(buffer, at + 1, texts, to)
            if at < 0:
                return -1
            line[SPAN_END], line[TEXT_END] = at - start, to
        elif _is_same(buffer, key, key_end - 1, id_key):
            if line[ID] >= 0 or first != QUOTE:
                return -1
            line[ID] = at + 1
            at, written = take_string(buffer, at + 1, texts, to)
            line[ID_END] = at - 1
            if at < 0 or written - to != line[ID_END] - line[ID]:
                return -1
        else:
            if _is_same(buffer, key, key_end - 1, metadata_key) and first != OPEN:
                return -1
            at = after_value(buffer, at, texts, to)
            if at < 0:
                return -1
        at = after_space(buffer, at)
        if buffer[at] != COMMA:
            break
    if buffer[at] != CLOSE:
        return -1
    at = after_space(buffer, at + 1)
    if buffer[at] != LINE_FEED:
        return -1
    line[TEXT] = text
    return at if text >= 0 else -1


@kernel
def take_documents(
    buffer: Bytes,
    begin: int,
    size: int,
    text_key: Bytes,
    id_key: Bytes,
    metadata_key: Bytes,
    texts: Bytes,
    lines: Integers,
) -> tuple[int, int]:
    """Take the documents of whole lines; returns how many lines these are and where they end.

    buffer: (size + PADDING or more,); the lines are its bytes from `begin` to `size`, of which the
    last is a line feed. keys: as bytes, three different ones. texts: (size + PADDING or more,),
    gets the texts in UTF-8. lines: (room, COLUMNS), which may be filled before the end is reached.
    `metadata` that is there and no object is left to the parser.
    """
    at, to, count = begin, 0, 0
    while at < size and count < lines.shape[0]:
        line = lines[count]
        end = _take_document(buffer, at, text_key, id_key, metadata_key, texts, to, line)
        if end >= 0:
            to = line[TEXT_END]
        else:
            end = at
            feeds = bits_in(buffer, end, LINE_FEED, LINE_FEED)
            while feeds == _NONE:
                end += 64
                feeds = bits_in(buffer, end, LINE_FEED, LINE_FEED)
            end += trailing_zeros(feeds)
        stop = end
        while stop > at and buffer[stop - 1] == RETURN:
            stop -= 1
        line[START], line[STOP] = at, stop
        count += 1
        at = end + 1
    return count, at
