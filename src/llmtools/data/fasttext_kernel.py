"""Text to rows of a fastText model, compiled: tokens, hashes, n-grams, and the mean of the rows.

Token for token, row for row and addition for addition as src/dictionary.cc of fastText 0.9.2 does
it for one line: the text, each line end in it a space, and then the token `</s>`.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmtools.formats.fasttext import NUM_CENTROIDS
from llmtools.jit import kernel

Bytes: TypeAlias = npt.NDArray[np.uint8]
Integers: TypeAlias = npt.NDArray[np.int64]
Rows: TypeAlias = npt.NDArray[np.int32]
Floats: TypeAlias = npt.NDArray[np.float32]
# Numbers, names, their starts, their table, kept buckets; see text_means for the others.
Dictionary: TypeAlias = tuple[Integers, Bytes, Integers, Rows, Rows]
Matrix: TypeAlias = tuple[Floats, Bytes, Floats, Floats, int]
Memo: TypeAlias = tuple[Integers, Rows, Integers]

FNV_BASIS = 2166136261
FNV_PRIME = 16777619
NGRAM_PRIME = 116049371
MASK_32 = 0xFFFFFFFF
LABEL = np.frombuffer(b"__label__", np.uint8)
END = np.frombuffer(b"</s>", np.uint8)
OPENING, CLOSING = 60, 62  # < and >
# Tokens longer than this are rare, and would fill the memory of rows at once.
MEMO_TOKEN_BYTES = 64
MEMO_SLOTS = 1 << 14
MEMO_ROWS = 1 << 18
# Positions in the vector of a dictionary's numbers.
NUM_WORDS, WORD_NGRAMS, BUCKET, MINN, MAXN, IS_PRUNED, END_ID = range(7)


@kernel
def _hash(buffer: Bytes, start: int, stop: int) -> int:
    """32-bit FNV-1a with fastText's quirk: a byte from 128 on is a negative number."""
    h = FNV_BASIS
    for i in range(start, stop):
        h = _fnv(h, buffer[i])
    return h


@kernel
def _fnv(h: int, byte: int) -> int:
    signed = ((np.int64(byte) ^ 128) - 128) & MASK_32
    return int(((np.int64(h) ^ signed) * FNV_PRIME) & MASK_32)


@kernel
def _is_same(a: Bytes, i: int, b: Bytes, j: int, length: int) -> bool:
    for k in range(length):
        if a[i + k] != b[j + k]:
            return False
    return True


@kernel
def build_table(names: Bytes, starts: Integers, num_slots: int) -> Rows:
    """A hash table of names, -1 where free; of two equal names the later one is found."""
    table = np.full(num_slots, -1, np.int32)
    for i in range(len(starts) - 1):
        length = starts[i + 1] - starts[i]
        slot = _hash(names, starts[i], starts[i + 1]) % num_slots
        while table[slot] >= 0:
            at = starts[table[slot]]
            if starts[table[slot] + 1] - at == length and _is_same(
                names, at, names, starts[i], length
            ):
                break
            slot = (slot + 1) % num_slots
        table[slot] = i
    return table


@kernel
def build_kept(kept: Rows, num_slots: int) -> Rows:
    """(num_slots, 2): bucket and row by the bucket's hash, -1 where free; num_slots: 2^k."""
    table = np.full((num_slots, 2), -1, np.int32)
    for i in range(kept.shape[1]):
        slot = _kept_slot(kept[0, i], num_slots)
        while table[slot, 0] >= 0 and table[slot, 0] != kept[0, i]:
            slot = (slot + 1) & (num_slots - 1)
        table[slot, 0] = kept[0, i]
        table[slot, 1] = kept[1, i]
    return table


@kernel
def _kept_slot(bucket: int, num_slots: int) -> int:
    return int(((np.int64(bucket) * 2654435761) >> 12) & (num_slots - 1))


@kernel
def _row_of(bucket: int, numbers: Integers, kept: Rows) -> int:
    """The row of an n-gram's bucket, -1 where it was pruned."""
    if not numbers[IS_PRUNED]:
        return int(numbers[NUM_WORDS] + bucket)
    num_slots = kept.shape[0]
    slot = _kept_slot(bucket, num_slots)
    while kept[slot, 0] >= 0:
        if kept[slot, 0] == bucket:
            return int(numbers[NUM_WORDS] + kept[slot, 1])
        slot = (slot + 1) & (num_slots - 1)
    return -1


@kernel
def _id_of(buffer: Bytes, start: int, stop: int, h: int, dictionary: Dictionary) -> int:
    """The entry that a token is, or -1."""
    _, names, starts, table, _ = dictionary
    slot = h % len(table)
    while table[slot] >= 0:
        entry = table[slot]
        at = starts[entry]
        if starts[entry + 1] - at == stop - start and _is_same(
            buffer, start, names, at, stop - start
        ):
            return int(np.int64(entry))
        slot = (slot + 1) % len(table)
    return int(np.int64(-1))


@kernel
def _is_space(byte: int) -> bool:
    return byte == 32 or 9 <= byte <= 13 or byte == 0


@kernel
def _next_token(buffer: Bytes, at: int, end: int) -> tuple[int, int, int]:
    """Start, stop and hash of the next token; start is `end` where there is none."""
    while at < end and _is_space(buffer[at]):
        at += 1
    start = at
    h = FNV_BASIS
    while at < end and not _is_space(buffer[at]):
        h = _fnv(h, buffer[at])
        at += 1
    return start, at, h


@kernel
def _ends(buffer: Bytes, start: int, stop: int, end: int) -> bool:
    """Whether a text is over: behind its last byte, or at a token that is </s>."""
    return start == end or (stop - start == len(END) and _is_same(buffer, start, END, 0, len(END)))


@kernel
def _is_label(buffer: Bytes, start: int, stop: int, entry: int, num_words: int) -> bool:
    """Labels are no words, wherever they stand."""
    if entry >= 0:
        return entry >= num_words
    return stop - start >= len(LABEL) and _is_same(buffer, start, LABEL, 0, len(LABEL))


@kernel
def _add_rows(rows: Rows, count: int, matrix: Matrix, total: Floats) -> None:
    """Add `count` rows of the input matrix to `total`, one after the other."""
    floats, codes, centroids, norms, part_size = matrix
    dim = len(total)
    if codes.shape[0] == 0:
        for i in range(count):
            row = rows[i]
            for d in range(dim):
                total[d] += floats[row, d]
        return
    for i in range(count):
        norm = norms[rows[i]]
        for part in range(codes.shape[1]):
            start = part * part_size
            width = min(part_size, dim - start)
            at = start * NUM_CENTROIDS + np.int64(codes[rows[i], part]) * width
            for d in range(width):
                total[start + d] += norm * centroids[at + d]


@kernel
def _push(row: int, rows: Rows, held: int, matrix: Matrix, total: Floats) -> int:
    """Put a row behind the `held` ones, which are added to `total` first where they fill `rows`."""
    if held == len(rows):
        _add_rows(rows, held, matrix, total)
        held = 0
    rows[held] = row
    return held + 1


@kernel
def _ngram_row(
    buffer: Bytes, start: int, stop: int, i: int, j: int, h: int, numbers: Integers, kept: Rows
) -> tuple[int, int, int]:
    """Continue an n-gram that begins at i by the character at j: its end, hash and row (or -1).

    The token stands between < and >, which are thought to lie at start - 1 and at stop.
    """
    h = _fnv(h, OPENING if j < start else CLOSING if j == stop else buffer[j])
    j += 1
    while j < stop and buffer[j] & 192 == 128:
        h = _fnv(h, buffer[j])
        j += 1
    return j, h, _row_of(h % numbers[BUCKET], numbers, kept)


@kernel
def _word_rows(
    buffer: Bytes,
    begin: int,
    end: int,
    dictionary: Dictionary,
    memo: Memo,
    rows: Rows,
    matrix: Matrix,
    total: Floats,
) -> tuple[int, int]:
    """The rows of a text's words and their character n-grams.

    Each time `rows` is full it is added to `total`. Returns how many rows there are, and how many
    of them still lie in `rows`. `memo` remembers the rows of tokens that were seen.
    """
    numbers, _, _, _, kept = dictionary
    seen, seen_rows, used = memo
    minn, maxn = numbers[MINN], numbers[MAXN]
    count, held = 0, 0
    at = begin
    while True:
        start, at, h = _next_token(buffer, at, end)
        stop = at
        if _ends(buffer, start, stop, end):
            break
        length = stop - start
        slot = seen[h & (MEMO_SLOTS - 1)]
        if slot[1] == length and _is_same(buffer, start, buffer, slot[0], length):
            for i in range(slot[2], slot[3]):
                held = _push(seen_rows[i], rows, held, matrix, total)
            count += slot[3] - slot[2]
            continue
        entry = _id_of(buffer, start, stop, h, dictionary)
        if _is_label(buffer, start, stop, entry, numbers[NUM_WORDS]):
            continue
        most = 1 + (length + 2) * maxn
        keeps = length <= MEMO_TOKEN_BYTES and most <= len(seen_rows)
        if keeps and used[0] + most > len(seen_rows):
            seen[:, 1] = 0
            used[0] = 0
        first = used[0]
        last = first
        if entry >= 0:
            held = _push(entry, rows, held, matrix, total)
            count += 1
            if keeps:
                seen_rows[last] = entry
                last += 1
        i = start - 1
        while maxn > 0 and i <= stop:
            j, n, g = i, 1, FNV_BASIS
            # An n-gram begins with a character, not inside of one.
            while j <= stop and n <= maxn and not (start <= i < stop and buffer[i] & 192 == 128):
                j, g, row = _ngram_row(buffer, start, stop, i, j, g, numbers, kept)
                if n >= minn and row >= 0 and not (n == 1 and (i < start or j > stop)):
                    held = _push(row, rows, held, matrix, total)
                    count += 1
                    if keeps:
                        seen_rows[last] = row
                        last += 1
                n += 1
            i += 1
        if keeps:
            slot[0], slot[1], slot[2], slot[3] = start, length, first, last
            used[0] = last
    if numbers[END_ID] >= 0:
        held = _push(numbers[END_ID], rows, held, matrix, total)
        count += 1
    return count, held


@kernel
def _phrase_rows(
    buffer: Bytes,
    begin: int,
    end: int,
    dictionary: Dictionary,
    rows: Rows,
    held: int,
    matrix: Matrix,
    total: Floats,
) -> tuple[int, int]:
    """The rows of a text's word n-grams behind those that `rows` holds; returns as _word_rows."""
    numbers, _, _, _, kept = dictionary
    size = numbers[WORD_NGRAMS]
    # fastText keeps the words' hashes as signed numbers, and so extends their signs.
    window = np.zeros(size, np.int64)
    filled, count = 0, 0
    at, is_over = begin, False
    while filled > 0 or not is_over:
        while filled < size and not is_over:
            start, at, h = _next_token(buffer, at, end)
            is_over = _ends(buffer, start, at, end)
            if is_over:
                h = _hash(END, 0, len(END))
            elif _is_label(
                buffer, start, at, _id_of(buffer, start, at, h, dictionary), numbers[NUM_WORDS]
            ):
                continue
            window[filled] = np.int32(h)
            filled += 1
        h = window[0]
        for k in range(1, filled):
            h = h * NGRAM_PRIME + window[k]
            bucket = np.uint64(h) % np.uint64(numbers[BUCKET])
            row = _row_of(int(bucket), numbers, kept)
            if row >= 0:
                held = _push(row, rows, held, matrix, total)
                count += 1
        for k in range(1, filled):
            window[k - 1] = window[k]
        filled -= 1
    return count, held


@kernel
def _text_rows(
    buffer: Bytes,
    begin: int,
    end: int,
    dictionary: Dictionary,
    memo: Memo,
    rows: Rows,
    matrix: Matrix,
    total: Floats,
) -> tuple[int, int]:
    """All rows of one text, in fastText's order; returns as _word_rows."""
    count, held = _word_rows(buffer, begin, end, dictionary, memo, rows, matrix, total)
    if dictionary[0][WORD_NGRAMS] > 1:
        more, held = _phrase_rows(buffer, begin, end, dictionary, rows, held, matrix, total)
        count += more
    return count, held


@kernel
def _new_memo() -> Memo:
    """What was seen, (slots, 4): place, length, first and last row; the rows; how many are used."""
    seen = np.zeros((MEMO_SLOTS, 4), np.int64)
    return seen, np.empty(MEMO_ROWS, np.int32), np.zeros(1, np.int64)


@kernel
def _cut(buffer: Bytes, begin: int, end: int, max_chars: int) -> int:
    """Where a text's first `max_chars` characters end; 0 means all of them."""
    if max_chars == 0 or end - begin <= max_chars:
        return end
    chars = 0
    for i in range(begin, end):
        if buffer[i] & 192 != 128:
            if chars == max_chars:
                return i
            chars += 1
    return end


@kernel
def text_means(
    buffer: Bytes,
    offsets: Integers,
    max_chars: int,
    dictionary: Dictionary,
    matrix: Matrix,
    dim: int,
) -> tuple[Floats, Integers]:
    """The mean of each text's rows, (D, dim) float32, and the number of its rows, (D,) int64.

    dictionary: numbers, names, their starts, their table, the kept buckets. matrix: the rows as
    floats, or (then floats has none) as codes, centroids, norms and the size of a part.
    """
    num_texts = len(offsets) - 1
    means = np.zeros((num_texts, dim), np.float32)
    counts = np.zeros(num_texts, np.int64)
    rows = np.empty(4096, np.int32)
    memo = _new_memo()
    for d in range(num_texts):
        total = means[d]
        end = _cut(buffer, offsets[d], offsets[d + 1], max_chars)
        counts[d], held = _text_rows(buffer, offsets[d], end, dictionary, memo, rows, matrix, total)
        _add_rows(rows, held, matrix, total)
        if counts[d] > 0:
            total *= np.float32(1.0 / counts[d])
    return means, counts


@kernel
def text_rows(
    buffer: Bytes, offsets: Integers, dictionary: Dictionary, matrix: Matrix
) -> tuple[Rows, Integers]:
    """The rows themselves, int32, and where those of each text begin, (D + 1,) int64.

    matrix: one without columns, to which nothing is added.
    """
    num_texts = len(offsets) - 1
    starts = np.zeros(num_texts + 1, np.int64)
    found = np.empty(1 << 16, np.int32)
    rows = np.empty(1 << 16, np.int32)
    total = np.empty(0, np.float32)
    memo = _new_memo()
    for d in range(num_texts):
        while True:
            count, _ = _text_rows(
                buffer, offsets[d], offsets[d + 1], dictionary, memo, rows, matrix, total
            )
            if count <= len(rows):
                break
            rows = np.empty(2 * count, np.int32)
        at = starts[d]
        starts[d + 1] = at + count
        if at + count > len(found):
            grown = np.empty(2 * (at + count), np.int32)
            grown[:at] = found[:at]
            found = grown
        found[at : at + count] = rows[:count]
    return found[: starts[num_texts]], starts


@kernel
def products(means: Floats, columns: Floats) -> Floats:
    """means (D, dim) times columns (dim, L), every sum in the order of the dimensions.

    A matrix product of a library adds in an order that depends on D, and a text's score must not
    depend on how many texts are judged with it.
    """
    found = np.zeros((means.shape[0], columns.shape[1]), np.float32)
    for i in range(means.shape[0]):
        for d in range(means.shape[1]):
            for j in range(columns.shape[1]):
                found[i, j] += means[i, d] * columns[d, j]
    return found
