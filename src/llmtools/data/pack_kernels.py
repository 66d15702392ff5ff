"""Which documents share a row: kernels over lengths alone, and the copy that follows them.

Rows have `width` tokens and lengths are 1 to `width`. A tree over lengths says which of them occur,
so that the nearest one above or below another is found in log2(width) steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from llmtools.formats.tokens import TokenFrame
from llmtools.jit import kernel

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


@kernel
def _set(tree: Bytes, half: int, length: int) -> None:
    at = half + length
    while at > 0 and tree[at] == 0:
        tree[at] = 1
        at >>= 1


@kernel
def _clear(tree: Bytes, half: int, length: int) -> None:
    at = half + length
    tree[at] = 0
    while at > 1 and tree[at ^ 1] == 0:
        at >>= 1
        tree[at] = 0


@kernel
def _at_least(tree: Bytes, half: int, length: int) -> int:
    """The smallest length that occurs and is not below this one, -1 where there is none."""
    at = half + length
    if tree[at] == 0:
        while at > 1 and (at & 1 == 1 or tree[at + 1] == 0):
            at >>= 1
        if at <= 1:
            return -1
        at += 1
        while at < half:
            at *= 2
            if tree[at] == 0:
                at += 1
    return at - half


@kernel
def _at_most(tree: Bytes, half: int, length: int) -> int:
    """The largest length that occurs and is not above this one, -1 where there is none."""
    at = half + length
    if tree[at] == 0:
        while at > 1 and (at & 1 == 0 or tree[at - 1] == 0):
            at >>= 1
        if at <= 1:
            return -1
        at -= 1
        while at < half:
            at = 2 * at + 1
            if tree[at] == 0:
                at -= 1
    return at - half


@kernel
def _leaves(width: int) -> int:
    half = 1
    while half <= width:
        half *= 2
    return half


@kernel
def best_fit(lengths: Integers, order: Integers, width: int) -> tuple[Integers, Integers]:
    """Each piece, in `order`, into the row with the least room that still holds it, or a new row.

    Returns the pieces row by row, int64 [n], and how many each row has, int64 [rows]. Rows stand in
    the order of their first piece, pieces within a row in their own order.
    """
    n = len(lengths)
    half = _leaves(width)
    tree = np.zeros(2 * half, np.uint8)
    # Rows by the room that they have left, chained from `first`.
    first = np.full(width + 1, -1, np.int64)
    following = np.empty(n, np.int64)
    row_of = np.empty(n, np.int64)
    rows = 0
    for at in range(n):
        piece = order[at]
        room = _at_least(tree, half, lengths[piece])
        if room < 0:
            row = rows
            rows += 1
            room = width
        else:
            row = first[room]
            first[room] = following[row]
            if first[room] < 0:
                _clear(tree, half, room)
        row_of[piece] = row
        left = room - lengths[piece]
        if left > 0:
            following[row] = first[left]
            first[left] = row
            _set(tree, half, left)
    number = np.full(rows, -1, np.int64)
    counts = np.zeros(rows, np.int64)
    seen = 0
    for piece in range(n):
        if number[row_of[piece]] < 0:
            number[row_of[piece]] = seen
            seen += 1
        counts[number[row_of[piece]]] += 1
    place = np.zeros(rows, np.int64)
    for row in range(1, rows):
        place[row] = place[row - 1] + counts[row - 1]
    pieces = np.empty(n, np.int64)
    for piece in range(n):
        row = number[row_of[piece]]
        pieces[place[row]] = piece
        place[row] += 1
    return pieces, counts


@kernel
def bos_best_fit(
    lengths: Integers, width: int, hold: int, is_final: bool
) -> tuple[Integers, Integers, Integers]:
    """Rows without padding: the longest held document that fits, else the shortest, cropped.

    Documents are held in order until they have `hold` tokens together; of equal lengths the first
    goes first. Unless `is_final`, ends at the row for which more documents could be needed than
    there are. Returns the documents row by row, int64 [placed], how many tokens each keeps, and how
    many documents each row has, int64 [rows].
    """
    n = len(lengths)
    half = _leaves(width)
    tree = np.zeros(2 * half, np.uint8)
    first = np.full(width + 1, -1, np.int64)
    last = np.full(width + 1, -1, np.int64)
    following = np.full(n, -1, np.int64)
    placed = np.empty(n, np.int64)
    kept = np.empty(n, np.int64)
    counts = np.zeros(n, np.int64)
    done = 0
    rows = 0
    coming = 0
    held = 0
    waiting = lengths.sum()
    while True:
        # A row takes two widths at most, the cropped document among them, and holding oversteps.
        if not is_final and waiting < max(hold - held, 0) + 3 * width:
            break
        room = width
        while room > 0:
            while held < hold and coming < n:
                length = lengths[coming]
                if first[length] < 0:
                    first[length] = coming
                    _set(tree, half, length)
                else:
                    following[last[length]] = coming
                last[length] = coming
                held += length
                waiting -= length
                coming += 1
            if held == 0:
                break
            length = _at_most(tree, half, room)
            if length < 0:
                length = _at_least(tree, half, room)
            document = first[length]
            first[length] = following[document]
            if first[length] < 0:
                _clear(tree, half, length)
            held -= length
            placed[done] = document
            kept[done] = min(length, room)
            room -= kept[done]
            counts[rows] += 1
            done += 1
        if counts[rows] == 0:
            break
        rows += 1
        if rows == n:
            break
    return placed[:done], kept[:done], counts[:rows]


@kernel
def copy_pieces(
    source: Bytes, starts: Integers, lengths: Integers, places: Integers, target: Bytes
) -> None:
    """Copy lengths[i] bytes from starts[i] of the source to places[i] of the target."""
    for i in range(len(starts)):
        start, place = starts[i], places[i]
        for at in range(lengths[i]):
            target[place + at] = source[start + at]


def copy_items(
    source: npt.NDArray[Any],
    starts: Integers,
    lengths: Integers,
    places: Integers,
    target: npt.NDArray[Any],
) -> None:
    """`copy_pieces` of items of any one size; both arrays contiguous, counts and places in items.

    Kernels are compiled for bytes alone, not once for each dtype.
    """
    assert source.dtype == target.dtype
    size = source.dtype.itemsize
    copy_pieces(
        source.reshape(-1).view(np.uint8),
        starts * size,
        lengths * size,
        places * size,
        target.reshape(-1).view(np.uint8),
    )


def take_documents(frame: TokenFrame, documents: Integers) -> TokenFrame:
    """The documents with these numbers, in this order."""
    lengths = np.diff(frame.offsets)[documents]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    sources, places = frame.offsets[documents], offsets[:-1]
    tokens = np.empty(offsets[-1], frame.tokens.dtype)
    copy_items(frame.tokens, sources, lengths, places, tokens)
    mask = None
    if frame.loss_mask is not None:
        mask = np.empty(offsets[-1], np.uint8)
        copy_items(frame.loss_mask, sources, lengths, places, mask)
    return TokenFrame(
        vocabulary=frame.vocabulary,
        tokens=tokens,
        offsets=offsets,
        document_ids=frame.document_ids[documents],
        loss_mask=mask,
    )
