"""Rows to micro-batches: labels, the order of rows, and how many labels a step has.

The order is a pure function of seed and position, so the place of a run in its data is one number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from llmtools.formats.packed import PackedDataset
from llmtools.model.packed import PackedRows
from llmtools.ops.loss import IGNORE


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """Tokens and their labels, int64 [T]; lengths: tokens of each document, adding up to T."""

    input_ids: np.ndarray
    labels: np.ndarray
    lengths: list[int]


class Rows(Protocol):
    """A data set of rows."""

    @property
    def num_rows(self) -> int: ...

    def row(self, index: int) -> TrainingRow: ...


def next_token_row(
    ids: np.ndarray, segment_lengths: Sequence[int], targets: np.ndarray | None
) -> TrainingRow:
    """The row that predicts each token from those before it in its segment.

    ids: [T + 1]. segment_lengths: adding up to T + 1. targets: [T + 1], 0 where a token is not to
    be learned, None where all are. A segment's first token is nobody's label.
    """
    wide = ids.astype(np.int64)
    labels = wide[1:].copy()
    if targets is not None:
        labels[targets[1:] == 0] = IGNORE
    ends = np.cumsum(segment_lengths)
    labels[ends[:-1] - 1] = IGNORE
    # The last column is a label only, so the last segment is one token shorter.
    lengths = [int(n) for n in segment_lengths]
    lengths[-1] -= 1
    return TrainingRow(
        input_ids=wide[:-1], labels=labels, lengths=lengths if lengths[-1] else lengths[:-1]
    )


class ShardRows:
    """The rows of a packed directory."""

    def __init__(self, dataset: PackedDataset) -> None:
        self.dataset = dataset

    @property
    def num_rows(self) -> int:
        return self.dataset.num_rows

    def row(self, index: int) -> TrainingRow:
        row = self.dataset.row(index)
        return next_token_row(row.input_ids, row.segment_lengths.tolist(), row.loss_mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows one after another. rows: their indices. num_labels: labels that count."""

    input_ids_T: torch.Tensor
    labels_T: torch.Tensor
    context: PackedRows
    num_labels: int
    rows: list[int]

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids_T)


def collate(rows: Rows, indices: Sequence[int], device: torch.device | str) -> Batch:
    """Some rows as one flat batch on a device."""
    taken = [rows.row(index) for index in indices]
    labels = np.concatenate([row.labels for row in taken])
    return Batch(
        input_ids_T=torch.from_numpy(np.concatenate([row.input_ids for row in taken])).to(device),
        labels_T=torch.from_numpy(labels).to(device),
        context=PackedRows([n for row in taken for n in row.lengths], device),
        num_labels=int((labels != IGNORE).sum()),
        rows=list(indices),
    )


class RowOrder:
    """Every row once an epoch, each epoch in an order of its own.

    Position p is row permutation(seed, p // num_rows)[p % num_rows]; a step may span two epochs.
    """

    def __init__(self, num_rows: int, seed: int) -> None:
        self._num_rows, self._seed = num_rows, seed
        self._epoch: int | None = None
        self._permutation = np.empty(0, np.int64)

    def __getitem__(self, position: int) -> int:
        epoch, at = divmod(position, self._num_rows)
        if epoch != self._epoch:
            generator = np.random.default_rng([self._seed, epoch])
            self._epoch, self._permutation = epoch, generator.permutation(self._num_rows)
        return int(self._permutation[at])


class Loader:
    """The micro-batches of each step; step s takes positions (s - 1) * rows_per_step onwards."""

    def __init__(
        self, rows: Rows, *, batch_size: int, grad_accum: int, seed: int, device: torch.device
    ) -> None:
        self._rows, self._device = rows, device
        self._batch_size, self._grad_accum = batch_size, grad_accum
        self._order = RowOrder(rows.num_rows, seed)

    def position_after(self, step: int) -> int:
        """Rows consumed by the first `step` steps."""
        return step * self._batch_size * self._grad_accum

    def epoch_after(self, step: int) -> float:
        return self.position_after(step) / self._rows.num_rows

    def micro_batches(self, step: int) -> list[Batch]:
        start = self.position_after(step - 1)
        indices = [self._order[p] for p in range(start, self.position_after(step))]
        size = self._batch_size
        return [
            collate(self._rows, indices[at : at + size], self._device)
            for at in range(0, len(indices), size)
        ]


def in_order(rows: Rows, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """All rows once, in their own order."""
    for start in range(0, rows.num_rows, batch_size):
        stop = min(start + batch_size, rows.num_rows)
        yield collate(rows, range(start, stop), device)
