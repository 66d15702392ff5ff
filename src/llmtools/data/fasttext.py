"""Any supervised fastText model at work: texts in, a score for every label out.

Scores are fastText's own: 1e-5 above the probability, and a little more for every step of a
hierarchical softmax, because it takes the logarithm of a probability plus 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path

import numpy as np

from llmtools.data.fasttext_kernel import (
    Bytes,
    Dictionary,
    Integers,
    Matrix,
    Rows,
    build_kept,
    build_table,
    products,
    text_means,
    text_rows,
)
from llmtools.errors import InputError
from llmtools.formats.fasttext import (
    LABEL_PREFIX,
    FastTextFile,
    Floats,
    Loss,
    QuantMatrix,
    read_fasttext,
)

END = b"</s>"
LOG_FLOOR = 1e-5
# A quantised matrix that takes no more memory than this as floats is kept as floats.
MAX_UNPACKED = 1 << 26
# fastText looks its sigmoid up: 512 steps from -8 to 8.
SIGMOID_STEPS, SIGMOID_LIMIT = 512, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A label, without its prefix, and its score; label '' where a text has nothing to judge."""

    label: str
    score: float


class FastText:
    """A loaded model.

    labels: the names, without `__label__`. Raises InputError for a file that is no such model.
    """

    def __init__(self, file: FastTextFile) -> None:
        self.file = file
        self.labels = [
            label.decode("utf-8", "replace").removeprefix(LABEL_PREFIX) for label in file.labels
        ]
        self._dictionary = dictionary_of(file)
        self._matrix = _for_kernel(file.inputs)
        outputs = file.outputs
        rows = outputs.to_floats() if isinstance(outputs, QuantMatrix) else outputs
        # The last row of a tree's is not used: it has one inner node less than labels.
        num_rows = len(self.labels) - (file.loss is Loss.HS)
        self._columns = np.array(rows[:num_rows].T, np.float32, order="C")

    @classmethod
    def load(cls, path: Path) -> FastText:
        return cls(read_fasttext(path))

    def scores(self, buffer: Bytes, offsets: Integers, max_chars: int = 0) -> Floats:
        """The score of every label for every text, (D, L); a text without any row has zeros.

        buffer, offsets: as in a Batch. max_chars: judge by so many characters; 0 means all.
        """
        means, counts = text_means(
            buffer, offsets, max_chars, self._dictionary, self._matrix, self.file.dim
        )
        # Not a finite number: only a damaged model can do that.
        with np.errstate(all="ignore"):
            found = self._output_scores(means)
        if not np.isfinite(found).all():
            raise InputError(f"{self.file.path}: its scores are not finite; the file is damaged")
        found[counts == 0] = 0
        return found

    def predict(self, buffer: Bytes, offsets: Integers, max_chars: int = 0) -> list[Prediction]:
        """The best label of each text."""
        scores = self.scores(buffer, offsets, max_chars)
        best = scores.argmax(axis=1)
        return [
            Prediction(label=self.labels[label] if row[label] > 0 else "", score=float(row[label]))
            for label, row in zip(best.tolist(), scores, strict=True)
        ]

    def _output_scores(self, means: Floats) -> Floats:
        loss = self.file.loss
        logits = products(means, self._columns)
        if loss is Loss.HS:
            return self._tree.scores(logits)
        if loss is Loss.SOFTMAX:
            logits -= logits.max(axis=1, keepdims=True)
            np.exp(logits, out=logits)
            logits /= logits.sum(axis=1, keepdims=True)
        else:
            logits = table_sigmoid(logits)
        logits += np.float32(LOG_FLOOR)
        return logits

    @cached_property
    def _tree(self) -> HuffmanTree:
        return HuffmanTree(self.file.label_counts)


def table_sigmoid(values: Floats) -> Floats:
    """The logistic function as fastText rounds it."""
    steps = np.arange(SIGMOID_STEPS + 1) * (2 * SIGMOID_LIMIT / SIGMOID_STEPS) - SIGMOID_LIMIT
    table = (1 / (1 + np.exp(-steps.astype(np.float32)))).astype(np.float32)
    inside = np.clip(np.nan_to_num(values), -SIGMOID_LIMIT, SIGMOID_LIMIT)
    at = ((inside + SIGMOID_LIMIT) * (SIGMOID_STEPS // SIGMOID_LIMIT // 2)).astype(np.int64)
    found = table[at]
    found[values < -SIGMOID_LIMIT] = 0
    found[values > SIGMOID_LIMIT] = 1
    found[np.isnan(values)] = np.nan
    return found


class HuffmanTree:
    """The binary tree of a hierarchical softmax, built from the labels' counts as fastText does.

    Nodes from 0 to L - 1 are the labels, the others are inner ones, the last is the root.
    """

    def __init__(self, counts: Integers) -> None:
        size = len(counts)
        self.num_labels = size
        total = np.full(2 * size - 1, 10**15, np.int64)
        total[:size] = counts
        self.children = np.zeros((size - 1, 2), np.int64)
        leaf, node = size - 1, size
        for inner in range(size, 2 * size - 1):
            for side in range(2):
                if leaf >= 0 and total[leaf] < total[node]:
                    self.children[inner - size, side] = leaf
                    leaf -= 1
                else:
                    self.children[inner - size, side] = node
                    node += 1
            left, right = self.children[inner - size]
            total[inner] = total[left] + total[right]

    @cached_property
    def levels(self) -> list[Integers]:
        """The inner nodes, less L, by their distance from the root."""
        levels = []
        level = np.arange(self.num_labels - 2, self.num_labels - 1)
        while level.size:
            levels.append(level)
            below = self.children[level].ravel()
            level = below[below >= self.num_labels] - self.num_labels
        return levels

    def scores(self, logits: Floats) -> Floats:
        """From what the inner nodes say, (D, L - 1), the score of each label, (D, L)."""
        right = 1 / (1 + np.exp(-logits))
        found = np.ones((len(logits), 2 * self.num_labels - 1), np.float32)
        for level in self.levels:
            here = found[:, level + self.num_labels]
            chance = right[:, level]
            found[:, self.children[level, 0]] = here * (1 - chance + np.float32(LOG_FLOOR))
            found[:, self.children[level, 1]] = here * (chance + np.float32(LOG_FLOOR))
        return found[:, : self.num_labels]


def dictionary_of(file: FastTextFile) -> Dictionary:
    """What the kernels need to turn text into rows."""
    entries = [*file.words, *file.labels]
    starts = np.zeros(len(entries) + 1, np.int64)
    np.cumsum([len(entry) for entry in entries], out=starts[1:])
    names = np.frombuffer(b"".join(entries), np.uint8)
    table = build_table(names, starts, ceil(len(entries) / 0.7))
    kept = np.zeros((2, 0), np.int32) if file.kept is None else file.kept
    slots = 1 << (4 * kept.shape[1]).bit_length()
    end_id = file.words.index(END) if END in file.words else -1
    numbers = [len(file.words), file.word_ngrams, file.bucket, file.minn, file.maxn]
    numbers += [file.kept is not None, end_id]
    return np.array(numbers, np.int64), names, starts, table, build_kept(kept, slots)


def rows_of(dictionary: Dictionary, buffer: Bytes, offsets: Integers) -> tuple[Rows, Integers]:
    """The input rows of each text, and where they begin, (D + 1,)."""
    return text_rows(buffer, offsets, dictionary, _for_kernel(np.zeros((1, 1), np.float32)))


def _for_kernel(matrix: Floats | QuantMatrix) -> Matrix:
    """Floats, codes, centroids, norms and part size, either the first or the others empty."""
    is_small = matrix.shape[0] * matrix.shape[1] * 4 <= MAX_UNPACKED
    if isinstance(matrix, QuantMatrix) and not is_small:
        empty = np.zeros((0, matrix.dim), np.float32)
        empty.flags.writeable = False
        return empty, matrix.codes, matrix.centroids, matrix.norms, matrix.part_size
    if isinstance(matrix, QuantMatrix):
        floats = matrix.to_floats()
    else:
        # A stored matrix lies wherever the dictionary ends, and aligned floats are read faster.
        floats = matrix.copy() if is_small else matrix
    floats.flags.writeable = False
    codes = np.zeros((0, 0), np.uint8)
    codes.flags.writeable = False
    empty_floats = np.zeros(0, np.float32)
    return floats, codes, empty_floats, empty_floats, 1
