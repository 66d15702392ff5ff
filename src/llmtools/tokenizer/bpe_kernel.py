"""Learning byte-pair merges from counted words, compiled.

The words lie in one array of symbols with a WALL before, between and after them. A token that
covers several slots holds its id in the first and ~id in the last, so that both neighbours of any
token are found without links; a slot between them, or one that begins nothing any more, is VOID.

The queue holds pairs by count, then by ids, and where a pair was found. As counts change its
entries are corrected only when they come to the top. What is merged in which order is that of the
`tokenizers` library's trainer, down to three of its habits: a pair's count is not lowered by its
own merge; pairs that appear again later are queued again with only the new places; and a merge
whose text is a token already leads to that token. Counts here have 64 bits, there 32.
Source: tokenizers 0.23, models/bpe/trainer.rs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llmtools.jit import inlined, kernel
from llmtools.tokenizer.word_kernel import Bytes, Hashes, Ints, Longs

# keys, totals, tally, heap, counts, pairs, starts, sizes, rounds, free, places of merge_pairs.
Grown = tuple[Hashes, Longs, Ints, Ints, Longs, Hashes, Longs, Ints, Ints, Ints, Ints]

WALL = np.int32(-(2**31))
VOID = np.int32(-(2**31) + 1)
EMPTY = np.uint64(2**64 - 1)
BLOCK = 16
_MIX = np.uint64(0x9E3779B97F4A7C15)
# Places of numbers that a call leaves for the next.
NUM_TOKENS, NUM_PAIRS, HEAP_SIZE, NUM_ENTRIES, NUM_FREE, NUM_PLACES, ROUND, IS_DONE = range(8)


@kernel
def _slot(keys: Hashes, key: Any) -> Any:
    """Where a pair is in the table, or where it would be entered."""
    mask = np.uint64(keys.size - 1)
    mixed = key * _MIX
    slot = (mixed ^ (mixed >> np.uint64(32))) & mask
    while keys[slot] != EMPTY and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)


@kernel
def _with_room(keys: Hashes, totals: Longs, tally: Ints, wanted: int) -> tuple[Hashes, Longs, Ints]:
    """The table of pairs with room for `wanted` of them; `tally` is all 0 between rounds."""
    size = keys.size
    while size * 3 < wanted * 5:
        size *= 2
    if size == keys.size:
        return keys, totals, tally
    new_keys = np.full(size, EMPTY, np.uint64)
    new_totals = np.zeros(size, np.int64)
    for old in range(keys.size):
        if keys[old] != EMPTY:
            slot = _slot(new_keys, keys[old])
            new_keys[slot], new_totals[slot] = keys[old], totals[old]
    return new_keys, new_totals, np.zeros(size, np.int32)


@kernel
def _pair(left: Any, right: Any) -> Any:
    return np.uint64(left) << np.uint64(32) | np.uint64(right)


@kernel
def _is_before(a: int, b: int, counts: Longs, pairs: Hashes, rounds: Ints) -> Any:
    if counts[a] != counts[b]:
        return counts[a] > counts[b]
    if pairs[a] != pairs[b]:
        return pairs[a] < pairs[b]
    return rounds[a] < rounds[b]


@kernel
def _sift_up(heap: Ints, at: int, counts: Longs, pairs: Hashes, rounds: Ints) -> None:
    entry = heap[at]
    while at and _is_before(entry, heap[(at - 1) >> 1], counts, pairs, rounds):
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = entry


@kernel
def _sift_down(heap: Ints, size: int, counts: Longs, pairs: Hashes, rounds: Ints) -> None:
    if size == 0:
        return
    at, entry = 0, heap[0]
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _is_before(heap[child + 1], heap[child], counts, pairs, rounds):
            child += 1
        if not _is_before(heap[child], entry, counts, pairs, rounds):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = entry


@kernel
def _longer(array: Any, size: int) -> Any:
    """An array of at least so many elements, grown by half, that begins like the given one."""
    if size <= array.size:
        return array
    grown = np.empty(max(size, array.size + array.size // 2), array.dtype)
    grown[: array.size] = array
    return grown


@kernel
def lay_out(ids: Ints, starts: Longs, symbols: Ints, walls: Ints) -> None:
    """Put words between walls.

    ids, starts: as in bpe_train.Symbols. symbols: (S,) int32. walls: (S // BLOCK + 1,) int32, how
    many stand before each BLOCK of symbols.
    """
    symbols[0] = WALL
    slot = 1
    for word in range(starts.size - 1):
        for i in range(starts[word], starts[word + 1]):
            symbols[slot] = ids[i]
            slot += 1
        symbols[slot] = WALL
        slot += 1
    count = 0
    for i in range(symbols.size):
        if i % BLOCK == 0:
            walls[i // BLOCK] = count
        count += symbols[i] == WALL


@inlined
def _word_at(symbols: Ints, walls: Ints, slot: Any) -> Any:
    """The number of the word that a slot is in: walls before it, but for the first.

    A number for each slot would take as much memory as the symbols.
    """
    block = slot // BLOCK
    word = walls[block] - 1
    for i in range(block * BLOCK, slot):
        word += symbols[i] == WALL
    return word


@kernel
def count_pairs(
    symbols: Ints,
    weights: Longs,
    keys: Hashes,
    totals: Longs,
    tally: Ints,
    at: Longs,
) -> Grown:
    """Count the pairs of all words.

    Returns the table and the queue of merge_pairs, every pair with all its places.
    """
    word = -1
    for i in range(symbols.size - 1):
        if symbols[i] == WALL:
            word += 1
        elif symbols[i + 1] != WALL:
            if at[NUM_PAIRS] * 5 >= keys.size * 3 - 5:
                # tally is not empty here: it grows beside the table.
                old_keys, old_tally = keys, tally
                keys, totals, tally = _with_room(keys, totals, tally, at[NUM_PAIRS] * 2)
                for old in range(old_keys.size):
                    if old_keys[old] != EMPTY:
                        tally[_slot(keys, old_keys[old])] = old_tally[old]
            key = _pair(symbols[i], symbols[i + 1])
            slot = _slot(keys, key)
            if keys[slot] == EMPTY:
                keys[slot] = key
                at[NUM_PAIRS] += 1
            totals[slot] += weights[word]
            tally[slot] += 1
    num = at[NUM_PAIRS]
    heap = np.empty(num + 64, np.int32)
    counts, pairs = np.empty(num + 64, np.int64), np.empty(num + 64, np.uint64)
    starts, sizes = np.empty(num + 64, np.int64), np.zeros(num + 64, np.int32)
    rounds, free = np.zeros(num + 64, np.int32), np.empty(64, np.int32)
    entry = end = 0
    for slot in range(keys.size):
        if keys[slot] != EMPTY:
            counts[entry], pairs[entry], starts[entry] = totals[slot], keys[slot], end
            end += tally[slot]
            # From here on the table's tally says which entry is the pair's.
            tally[slot] = entry
            entry += 1
    places = np.empty(end + 64, np.int32)
    for i in range(symbols.size - 1):
        if symbols[i] != WALL and symbols[i + 1] != WALL:
            entry = tally[_slot(keys, _pair(symbols[i], symbols[i + 1]))]
            places[starts[entry] + sizes[entry]] = i
            sizes[entry] += 1
    tally[:] = 0
    for entry in range(num):
        heap[entry] = entry
        _sift_up(heap, entry, counts, pairs, rounds)
    at[HEAP_SIZE], at[NUM_ENTRIES], at[NUM_PLACES] = num, num, end
    return keys, totals, tally, heap, counts, pairs, starts, sizes, rounds, free, places


@kernel
def _hash(text: Bytes, start: int, stop: int) -> Any:
    hashed = np.uint64(0xCBF29CE484222325)
    for i in range(start, stop):
        hashed = (hashed ^ np.uint64(text[i])) * np.uint64(0x100000001B3)
    return hashed ^ (hashed >> np.uint64(31))


@kernel
def find_token(texts: Bytes, ends: Longs, named: Ints, start: int, stop: int) -> Any:
    """The slot of the token that reads texts[start:stop], or where it would be entered."""
    mask = np.uint64(named.size - 1)
    slot = _hash(texts, start, stop) & mask
    while named[slot]:
        id = named[slot] - 1
        if ends[id + 1] - ends[id] == stop - start:
            i = 0
            while i < stop - start and texts[ends[id] + i] == texts[start + i]:
                i += 1
            if i == stop - start:
                break
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)


@kernel
def _append_text(
    texts: Bytes, ends: Longs, num: Any, left: Any, right: Any, prefix: Bytes
) -> tuple[Bytes, Any]:
    """Write the text of a merge behind those of all tokens; a prefix of its right part goes."""
    first, second = ends[left], ends[right]
    is_marked = prefix.size > 0 and ends[right + 1] - second >= prefix.size
    for i in range(prefix.size):
        is_marked = is_marked and texts[second + i] == prefix[i]
    if is_marked:
        second += prefix.size
    end = ends[num]
    stop = end + ends[left + 1] - first + ends[right + 1] - second
    texts = _longer(texts, stop)
    for i in range(first, ends[left + 1]):
        texts[end] = texts[i]
        end += 1
    for i in range(second, ends[right + 1]):
        texts[end] = texts[i]
        end += 1
    return texts, end


@kernel
def _merge_at(
    i: Any, left: Any, right: Any, new: Any, sizes: Ints, symbols: Ints
) -> tuple[Any, Any]:
    """Merge a pair at slot i if it is still there: (slot behind it, or -1; slot before it, or -1).

    The slots of neighbours; -1 at a wall, (-2, -2) where the pair is not.
    """
    if symbols[i] != left:
        return -2, -2
    j = i + sizes[left]
    if symbols[j] != right:
        return -2, -2
    last = j + sizes[right] - 1
    symbols[j - 1] = VOID
    symbols[j] = VOID
    symbols[last] = ~new
    symbols[i] = new
    after, before = last + 1, i - 1
    if symbols[after] == WALL:
        after = -1
    if symbols[before] == WALL:
        before = -1
    elif symbols[before] < 0:
        before -= sizes[~symbols[before]] - 1
    return after, before


@kernel
def merge_pairs(
    symbols: Ints,
    walls: Ints,
    weights: Longs,
    texts: Bytes,
    ends: Longs,
    sizes_of: Ints,
    named: Ints,
    prefix: Bytes,
    keeps_tokens: bool,
    keys: Hashes,
    totals: Longs,
    tally: Ints,
    heap: Ints,
    counts: Longs,
    pairs: Hashes,
    starts: Longs,
    sizes: Ints,
    rounds: Ints,
    free: Ints,
    places: Ints,
    at: Longs,
    target: int,
    least: int,
    merges: Ints,
) -> tuple[int, Bytes, Grown]:
    """Do as many of the next merges as `merges` has rows, or until `target` tokens are there.

    symbols, walls: of lay_out. weights: (words,) int64. texts, ends: the
    tokens' bytes, uint8, and (V + 1,) int64; sizes_of: (V,) int32, the slots a token covers; named:
    (power of two,) int32 of find_token. prefix: bytes that a token which begins no word begins
    with. keeps_tokens: pairs that read as a known token are passed over. least: the lowest count.
    merges: (n, 3) int32, filled with left, right, new. at[IS_DONE] says that nothing is left.
    Returns the number of merges and all arrays that may have grown.
    """
    touched, event_slot = np.empty(64, np.int64), np.empty(64, np.int64)
    event_place = np.empty(64, np.int32)
    done = 0
    while done < merges.shape[0]:
        if at[NUM_TOKENS] >= target or at[HEAP_SIZE] == 0:
            at[IS_DONE] = 1
            break
        entry = heap[0]
        now = totals[_slot(keys, pairs[entry])]
        if now != counts[entry] and now > 0:
            counts[entry] = now
            _sift_down(heap, at[HEAP_SIZE], counts, pairs, rounds)
            continue
        at[HEAP_SIZE] -= 1
        heap[0] = heap[at[HEAP_SIZE]]
        _sift_down(heap, at[HEAP_SIZE], counts, pairs, rounds)
        free = _longer(free, at[NUM_FREE] + 1)
        free[at[NUM_FREE]] = entry
        at[NUM_FREE] += 1
        if now <= 0:
            continue
        if now < least:
            at[IS_DONE] = 1
            break
        left = np.int32(pairs[entry] >> np.uint64(32))
        right = np.int32(pairs[entry] & np.uint64(0xFFFFFFFF))
        num = at[NUM_TOKENS]
        texts, end = _append_text(texts, ends, num, left, right, prefix)
        name = find_token(texts, ends, named, ends[num], end)
        if named[name] and keeps_tokens:
            continue
        if named[name]:
            new = named[name] - np.int32(1)
        else:
            new = np.int32(num)
            ends[num + 1] = end
            at[NUM_TOKENS] = num + 1
            named[name] = new + 1
        sizes_of[new] = sizes_of[left] + sizes_of[right]
        merges[done, 0], merges[done, 1], merges[done, 2] = left, right, new
        done += 1
        at[ROUND] += 1
        # Each place gives at most two new pairs.
        first, size = starts[entry], sizes[entry]
        keys, totals, tally = _with_room(keys, totals, tally, at[NUM_PAIRS] + 2 * size)
        touched = _longer(touched, 2 * size)
        event_slot, event_place = _longer(event_slot, 2 * size), _longer(event_place, 2 * size)
        num_touched = num_events = 0
        for k in range(first, first + size):
            i = np.int64(places[k])
            after, before = _merge_at(i, left, right, new, sizes_of, symbols)
            if after == -2:
                continue
            weight = weights[_word_at(symbols, walls, i)]
            for side in range(2):
                place = before if side == 0 else after
                if place < 0:
                    continue
                other = symbols[place]
                if side == 0:
                    old, pair, where = _pair(other, left), _pair(other, new), place
                else:
                    old, pair, where = _pair(right, other), _pair(new, other), i
                slot = _slot(keys, old)
                if keys[slot] != EMPTY:
                    totals[slot] -= weight
                slot = _slot(keys, pair)
                if keys[slot] == EMPTY:
                    keys[slot] = pair
                    at[NUM_PAIRS] += 1
                totals[slot] += weight
                if tally[slot] == 0:
                    touched[num_touched] = slot
                    num_touched += 1
                tally[slot] += 1
                event_slot[num_events], event_place[num_events] = slot, where
                num_events += 1
        places = _longer(places, at[NUM_PLACES] + num_events)
        for k in range(num_touched):
            slot = touched[k]
            if totals[slot] <= 0:
                tally[slot] = -1
                continue
            if at[NUM_FREE]:
                at[NUM_FREE] -= 1
                entry = free[at[NUM_FREE]]
            else:
                entry = np.int32(at[NUM_ENTRIES])
                at[NUM_ENTRIES] += 1
                wanted = at[NUM_ENTRIES]
                counts, pairs = _longer(counts, wanted), _longer(pairs, wanted)
                starts, sizes = _longer(starts, wanted), _longer(sizes, wanted)
                rounds = _longer(rounds, wanted)
            counts[entry], pairs[entry], rounds[entry] = totals[slot], keys[slot], at[ROUND]
            starts[entry], sizes[entry] = at[NUM_PLACES], 0
            at[NUM_PLACES] += tally[slot]
            tally[slot] = entry
            heap = _longer(heap, at[HEAP_SIZE] + 1)
            heap[at[HEAP_SIZE]] = entry
            _sift_up(heap, at[HEAP_SIZE], counts, pairs, rounds)
            at[HEAP_SIZE] += 1
        for k in range(num_events):
            entry = tally[event_slot[k]]
            if entry >= 0:
                places[starts[entry] + sizes[entry]] = event_place[k]
                sizes[entry] += 1
        for k in range(num_touched):
            tally[touched[k]] = 0
    return (
        done,
        texts,
        (keys, totals, tally, heap, counts, pairs, starts, sizes, rounds, free, places),
    )
