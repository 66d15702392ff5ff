"""The order of documents: that of the input, or shuffled, one or several times over.

A shuffle sorts documents by a key made of seed, epoch and the document's number in the input, so
the order depends on nothing else: no memory, no buffer, no division into frames. What does not fit
into memory is sorted as a radix sort would, by the first byte of the keys into files, and each file
again where it is still too large.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from llmtools.formats import tensor_header
from llmtools.formats.tokens import TokenFrame, Vocabulary, join_frames

Keys = npt.NDArray[np.uint64]
Keyed = tuple[TokenFrame, Keys]
KEY_BYTES = 8
# Frames, joined, sorted, and as the file's blocks.
COPIES = 4
# Of each document: its offset, id and key.
DOCUMENT_BYTES = 24


def order_keys(seed: int, epoch: int, begin: int, count: int) -> Keys:
    """Keys of documents `begin` onwards; no two documents of an epoch have the same one.

    splitmix64 (Steele, Lea and Flood 2014), whose state begins at a mix of seed and epoch.
    """
    start = _mix(np.array([seed], np.uint64)) ^ np.uint64(epoch)
    return _mix(_mix(start) + np.arange(begin, begin + count, dtype=np.uint64) * _GOLDEN)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: Keys) -> Keys:
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return cast(Keys, values ^ (values >> np.uint64(31)))


def in_order(
    frames: Iterable[TokenFrame], folder: Path, *, seed: int | None, epochs: int, memory: int
) -> Iterator[TokenFrame]:
    """The documents `epochs` times, each time in an order of its own; as they come without a seed.

    memory: bytes that may be held; what is more lies in `folder`, as large as the input and twice
    that for several epochs.
    """
    limit = memory // COPIES
    if epochs == 1:
        yield from frames if seed is None else _sorted(_keyed(frames, seed, 0), folder, limit)
        return
    folder.mkdir()
    held: list[TokenFrame] = []
    spool = folder / "input"
    size = 0
    for frame in frames:
        held.append(frame)
        size += _bytes_of(frame)
        if size > limit:
            _append(spool, join_frames(held), np.zeros(0, np.uint64))
            held, size = [], 0
    for epoch in range(epochs):
        again = _replay(spool, held)
        if seed is None:
            yield from again
        else:
            yield from _sorted(_keyed(again, seed, epoch), folder / str(epoch), limit)


def _replay(spool: Path, held: list[TokenFrame]) -> Iterator[TokenFrame]:
    if spool.exists():
        for frame, _ in _read(spool):
            yield frame
    yield from held


def _keyed(frames: Iterable[TokenFrame], seed: int, epoch: int) -> Iterator[Keyed]:
    number = 0
    for frame in frames:
        yield frame, order_keys(seed, epoch, number, frame.num_documents)
        number += frame.num_documents


def _bytes_of(frame: TokenFrame) -> int:
    mask = 0 if frame.loss_mask is None else len(frame.tokens)
    return frame.tokens.nbytes + mask + DOCUMENT_BYTES * frame.num_documents


def _sorted(
    source: Iterable[Keyed], folder: Path, limit: int, depth: int = 0
) -> Iterator[TokenFrame]:
    """Documents by key; `depth` bytes of the keys are equal. Files are in a folder of their own."""
    from llmtools.data.pack_kernels import take_documents

    held: list[Keyed] = []
    size = documents = 0
    buckets: set[int] = set()
    for frame, keys in source:
        held.append((frame, keys))
        size += _bytes_of(frame)
        documents += frame.num_documents
        # A single document is in order, however large.
        if size > limit and documents > 1 and depth < KEY_BYTES:
            buckets |= _scatter(held, folder, depth)
            held, size, documents = [], 0, 0
    if not buckets:
        if held:
            joined, keys = _join(held)
            yield take_documents(joined, np.argsort(keys, kind="stable"))
        return
    if documents:
        buckets |= _scatter(held, folder, depth)
    held.clear()
    for bucket in sorted(buckets):
        file = folder / f"{bucket:02x}"
        yield from _sorted(_read(file), folder / f"{bucket:02x}.d", limit, depth + 1)
        file.unlink()


def _scatter(held: list[Keyed], folder: Path, depth: int) -> set[int]:
    """Append documents to the files of their keys' byte number `depth`; returns which bytes."""
    from llmtools.data.pack_kernels import take_documents

    folder.mkdir(exist_ok=True, parents=True)
    joined, keys = _join(held)
    bucket = (keys >> np.uint64(8 * (KEY_BYTES - 1 - depth))) & np.uint64(0xFF)
    order = np.argsort(bucket, kind="stable")
    frame, keys, bucket = take_documents(joined, order), keys[order], bucket[order]
    edges = [0, *(np.flatnonzero(np.diff(bucket)) + 1).tolist(), len(bucket)]
    for begin, end in pairwise(edges):
        _append(folder / f"{int(bucket[begin]):02x}", frame.part(begin, end), keys[begin:end])
    return set(bucket.tolist())


def _join(held: list[Keyed]) -> Keyed:
    return join_frames([frame for frame, _ in held]), np.concatenate([keys for _, keys in held])


def _append(path: Path, frame: TokenFrame, keys: Keys) -> None:
    arrays = {
        "tokens": frame.tokens,
        "offsets": frame.offsets,
        "document_ids": frame.document_ids,
        "keys": keys,
    }
    if frame.loss_mask is not None:
        arrays["loss_mask"] = frame.loss_mask
    with open(path, "ab") as file:
        for piece in tensor_header.dump(arrays, frame.vocabulary.as_metadata()):
            file.write(piece)


def _read(path: Path) -> Iterator[Keyed]:
    where = str(path)
    with open(path, "rb") as file:
        while (header := tensor_header.read_header(file, where)) is not None:
            data = tensor_header.read_exactly(file, header.data_bytes, where)
            arrays = {
                name: tensor_header.view(entry, data) for name, entry in header.tensors.items()
            }
            frame = TokenFrame(
                vocabulary=Vocabulary.from_metadata(header.metadata, where),
                tokens=arrays["tokens"],
                offsets=arrays["offsets"],
                document_ids=arrays["document_ids"],
                loss_mask=arrays.get("loss_mask"),
            )
            yield frame, arrays["keys"]
