"""fastText's supervised models: .bin (floats) and .ftz (product-quantised), read and written.

    i32 magic 793712314, i32 version (11 or 12)
    settings    12 i32: dim ws epoch min_count neg word_ngrams loss model bucket minn maxn rate;
                f64 t
    dictionary  i32 entries, words, labels; i64 tokens, pruned (-1: nothing was pruned)
                entries: NUL-terminated bytes, i64 count, i8 type (0 word, 1 label), words first
                pruned pairs of i32: a bucket and the row it was kept as
    matrices    u8 quantised, the input matrix; u8 quantised, the output matrix
    floats      i64 rows, columns; f32 values
    quantised   u8 has_norms, i64 rows, columns, i32 codes, u8 codes, quantizer,
                and with norms a u8 for each row and a second quantizer
    quantizer   i32 dim, parts, part size, last part's size; f32 256 centroids of each part

Everything is little-endian and nothing is aligned. Every count is held against the file's size
before anything is allocated. Source: src/{fasttext,args,dictionary,matrix,quantmatrix,
productquantizer}.cc of fastText 0.9.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmtools.errors import InputError
from llmtools.formats.cursor import Cursor, map_file

MAGIC = 793712314
VERSIONS = (11, 12)
SUPERVISED = 3
NUM_CENTROIDS = 256
# fastText's own value where the file does not say: it is not stored.
LABEL_PREFIX = "__label__"
# A name, its end, a count and a type.
_LEAST_ENTRY = 10
_SETTINGS = "dim ws epoch min_count neg word_ngrams loss model bucket minn maxn update_rate".split()

Floats: TypeAlias = NDArray[np.float32]


class Loss(IntEnum):
    """How the output layer becomes scores; `NS` is read as OVA is."""

    HS = 1
    NS = 2
    SOFTMAX = 3
    OVA = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantMatrix:
    """Rows as codes of a product quantizer.

    codes:     (rows, parts) uint8
    centroids: (parts * 256 * part_size,) float32 at most: part after part, the last one narrower
    norms:     (rows,) float32, by which a row's centroids are multiplied
    """

    codes: NDArray[np.uint8]
    centroids: Floats
    norms: Floats
    dim: int
    part_size: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.codes), self.dim

    def to_floats(self) -> Floats:
        """The matrix that the codes stand for, (rows, dim)."""
        rows = np.empty(self.shape, np.float32)
        num_parts = self.codes.shape[1]
        for part in range(num_parts):
            start = part * self.part_size
            stop = self.dim if part == num_parts - 1 else start + self.part_size
            table = self.centroids[start * NUM_CENTROIDS : stop * NUM_CENTROIDS]
            rows[:, start:stop] = table.reshape(NUM_CENTROIDS, -1)[self.codes[:, part]]
        rows *= self.norms[:, None]
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class FastTextFile:
    """A supervised model as it is stored.

    words, labels: the dictionary's entries, undecoded, and how often each was seen.
    kept:          (2, n) int32: buckets and the rows they have, or None where all have one
    inputs:        (rows, dim): words, then n-gram buckets
    outputs:       (labels, dim); for hierarchical softmax the inner nodes of its tree
    """

    path: Path
    dim: int
    word_ngrams: int
    loss: Loss
    bucket: int
    minn: int
    maxn: int
    words: list[bytes]
    labels: list[bytes]
    label_counts: NDArray[np.int64]
    kept: NDArray[np.int32] | None
    inputs: Floats | QuantMatrix
    outputs: Floats | QuantMatrix


def is_fasttext(head: bytes) -> bool:
    """Whether a file that begins with these bytes (four or more) can be a fastText model."""
    return head[:4] == struct.pack("<i", MAGIC)


def read_fasttext(path: Path) -> FastTextFile:
    """A model file; the input matrix stays in the mapped file where it is stored as floats.

    Raises InputError, naming the part and the byte, for anything that is no supervised model.
    """
    data = map_file(path, "a fastText model")
    cursor = Cursor(path, data)
    if len(data) < 8 or cursor.number("<i") != MAGIC:
        raise InputError(f"{path}: not a fastText model: it begins with {data[:4]!r}")
    version = cursor.number("<i")
    if version not in VERSIONS:
        raise cursor.fault(f"version {version}: versions 11 and 12 are read")
    settings = _read_settings(cursor, version)
    names, counts, num_words, kept = _read_dictionary(cursor)
    cursor.what = "the input matrix"
    is_quantised = _read_flag(cursor)
    if kept is not None and not is_quantised:
        raise cursor.fault("its dictionary is pruned, which only quantised models can be")
    inputs = _read_matrix(cursor, is_quantised)
    cursor.what = "the output matrix"
    # A file of floats has the flag too, and it means nothing there.
    outputs = _read_matrix(cursor, bool(_read_flag(cursor) and is_quantised))
    model = FastTextFile(
        path=path,
        dim=settings["dim"],
        word_ngrams=settings["word_ngrams"],
        loss=Loss(settings["loss"]),
        bucket=settings["bucket"],
        minn=settings["minn"],
        maxn=settings["maxn"],
        words=names[:num_words],
        labels=names[num_words:],
        label_counts=counts[num_words:],
        kept=kept,
        inputs=inputs,
        outputs=outputs,
    )
    _check_shapes(model)
    return model


def _read_settings(cursor: Cursor, version: int) -> dict[str, int]:
    cursor.what = "the settings"
    found = {name: cursor.number("<i") for name in _SETTINGS}
    cursor.need(8)
    cursor.at += 8
    if found["model"] != SUPERVISED:
        kind = {1: "cbow", 2: "skipgram"}.get(found["model"], found["model"])
        raise cursor.fault(f"the model is {kind}: word vectors have no labels to predict")
    if found["loss"] not in list(Loss):
        raise cursor.fault(f"loss {found['loss']} is unknown (1 to 4)")
    if version == 11:
        # Models of that version were trained without character n-grams, whatever they say.
        found["maxn"] = 0
    limits = {"dim": (1, 1 << 20), "word_ngrams": (0, 100), "minn": (0, 100), "maxn": (0, 100)}
    for name, (low, high) in limits.items():
        if not low <= found[name] <= high:
            raise cursor.fault(f"{name} is {found[name]} ({low} to {high} are possible)")
    uses_buckets = found["maxn"] > 0 or found["word_ngrams"] > 1
    if found["bucket"] < (1 if uses_buckets else 0):
        raise cursor.fault(f"there are {found['bucket']} buckets, and n-grams need some")
    return found


def _read_dictionary(
    cursor: Cursor,
) -> tuple[list[bytes], NDArray[np.int64], int, NDArray[np.int32] | None]:
    """Names, their counts, how many of them are words, and what pruning kept."""
    cursor.what = "the dictionary"
    size, num_words, num_labels = (cursor.number("<i") for _ in range(3))
    cursor.number("<q")
    num_kept = cursor.number("<q")
    if min(num_words, num_labels) < 0 or num_words + num_labels != size:
        raise cursor.fault(f"{size} entries are not {num_words} words and {num_labels} labels")
    if num_labels == 0:
        raise cursor.fault("it has no labels")
    if size * _LEAST_ENTRY > cursor.left:
        raise cursor.fault(f"{size} entries stated, too many for the {cursor.left} bytes left")
    names: list[bytes] = []
    counts = np.empty(size, np.int64)
    data, at = cursor.data, cursor.at
    for number in range(size):
        stop = data.find(b"\0", at)
        if stop < 0 or stop + _LEAST_ENTRY > len(data):
            cursor.at = at
            raise cursor.fault(f"entry {number} does not end; the file is cut short or damaged")
        names.append(data[at:stop])
        counts[number], kind = struct.unpack_from("<qb", data, stop + 1)
        if kind != (number >= num_words):
            raise cursor.fault(f"entry {number} has type {kind}; words come before labels")
        at = stop + _LEAST_ENTRY
    cursor.at = at
    if num_kept < 0:
        return names, counts, num_words, None
    kept = _array(cursor, "<i4", 2 * num_kept).reshape(-1, 2).T
    return names, counts, num_words, np.ascontiguousarray(kept)


def _read_flag(cursor: Cursor) -> bool:
    flag = cursor.number("<B")
    if flag > 1:
        raise cursor.fault(f"a flag is {flag}, not 0 or 1")
    return flag == 1


def _array(cursor: Cursor, dtype: str, count: int) -> NDArray[Any]:
    """That many numbers, a view of the mapped file."""
    num_bytes = count * np.dtype(dtype).itemsize
    cursor.need(num_bytes)
    values: NDArray[Any] = np.frombuffer(cursor.data, dtype, count, cursor.at)
    cursor.at += num_bytes
    return values


def _read_shape(cursor: Cursor) -> tuple[int, int]:
    rows, columns = cursor.number("<q"), cursor.number("<q")
    if rows < 1 or columns < 1:
        raise cursor.fault(f"{rows} rows of {columns} columns are no matrix")
    return rows, columns


def _read_matrix(cursor: Cursor, is_quantised: bool) -> Floats | QuantMatrix:
    if not is_quantised:
        rows, columns = _read_shape(cursor)
        return _array(cursor, "<f4", rows * columns).reshape(rows, columns)
    has_norms = _read_flag(cursor)
    rows, columns = _read_shape(cursor)
    num_codes = cursor.number("<i")
    if num_codes < 0 or num_codes % rows:
        raise cursor.fault(f"{num_codes} codes are not the same number for {rows} rows")
    codes = _array(cursor, "<u1", num_codes)
    num_parts, part_size, centroids = _read_quantizer(cursor, columns)
    if num_codes != rows * num_parts:
        raise cursor.fault(f"{num_codes} codes for {rows} rows of {num_parts} parts")
    norms = np.ones(rows, np.float32)
    if has_norms:
        norm_codes = _array(cursor, "<u1", rows)
        _, _, table = _read_quantizer(cursor, 1)
        norms = table[norm_codes]
    return QuantMatrix(
        codes=codes.reshape(rows, num_parts),
        centroids=centroids,
        norms=norms,
        dim=columns,
        part_size=part_size,
    )


def _read_quantizer(cursor: Cursor, columns: int) -> tuple[int, int, Floats]:
    """Parts, their size and the centroids."""
    dim, num_parts, size, last = (cursor.number("<i") for _ in range(4))
    if (
        dim != columns
        or min(num_parts, size, last) < 1
        or last > size
        or (num_parts - 1) * size + last != dim
    ):
        raise cursor.fault(
            f"a quantizer of {num_parts} parts of {size}, the last of {last}, does not fit"
            f" {columns} columns"
        )
    # A copy: it is small, and what is looked up all the time should be aligned.
    return num_parts, size, _array(cursor, "<f4", dim * NUM_CENTROIDS).astype(np.float32)


def _check_shapes(model: FastTextFile) -> None:
    """Raise InputError unless every row that a text can ask for exists."""
    num_rows, columns = model.inputs.shape
    num_words, num_labels = len(model.words), len(model.labels)
    faults = []
    if columns != model.dim or model.outputs.shape[1] != model.dim:
        faults.append(f"rows of {columns} and {model.outputs.shape[1]} for dim {model.dim}")
    if model.outputs.shape[0] != num_labels:
        faults.append(f"{model.outputs.shape[0]} output rows for {num_labels} labels")
    if model.kept is None:
        if num_rows < num_words + model.bucket:
            faults.append(f"{num_rows} rows for {num_words} words and {model.bucket} buckets")
    elif num_rows < num_words + int(model.kept[1].max(initial=-1)) + 1:
        faults.append(f"n-grams kept beyond the {num_rows} rows")
    elif model.kept.min(initial=0) < 0:
        faults.append("negative numbers of n-grams")
    if faults:
        raise InputError(f"{model.path}: its parts do not fit together: {'; '.join(faults)}")


def dump_fasttext(model: FastTextFile, word_counts: NDArray[np.int64]) -> Iterator[bytes]:
    """A model of floats as a version 12 .bin, in pieces; `path` is not part of it."""
    if isinstance(model.inputs, QuantMatrix) or isinstance(model.outputs, QuantMatrix):
        raise ValueError("only models of floats are written")
    settings = [model.dim, 5, 1, 1, 5, model.word_ngrams, int(model.loss), SUPERVISED]
    settings += [model.bucket, model.minn, model.maxn, 100]
    yield struct.pack("<14id", MAGIC, VERSIONS[-1], *settings, 1e-4)
    names = [*model.words, *model.labels]
    num_tokens = int(word_counts.sum()) + int(model.label_counts.sum())
    sizes = (len(names), len(model.words), len(model.labels))
    yield struct.pack("<3i2q", *sizes, num_tokens, -1)
    counts = [*word_counts.tolist(), *model.label_counts.tolist()]
    for number, (name, count) in enumerate(zip(names, counts, strict=True)):
        yield name + struct.pack("<xqb", count, number >= len(model.words))
    for matrix in (model.inputs, model.outputs):
        yield struct.pack("<B2q", 0, *matrix.shape)
        yield np.ascontiguousarray(matrix, "<f4").tobytes()
