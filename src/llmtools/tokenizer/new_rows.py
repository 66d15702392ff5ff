"""First values of a model's rows for tokens that it has never seen.

Each new row is a weighted sum of old rows:

mean    of the rows of the old tokens that the new one is made of (Hewitt 2021; Gee et al. 2022).
focus   of the rows of the old tokens that stand in like contexts, after FOCUS (Dobler and de Melo
        2023): weights are the sparsemax of their similarities. The paper's similarities are those
        of fastText vectors trained on the documents; here they are those of counts of neighbours
        in the documents, projected at random to 128 dimensions, and of the ten nearest tokens
        only. A token that the documents show too seldom gets the mean of its pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmtools.errors import InputError
from llmtools.formats.checkpoint import Checkpoint, write_checkpoint
from llmtools.tokenizer.fertility import Sample
from llmtools.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

Rows = list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]
WINDOW = 4
DIMENSIONS = 128
NEAREST = 10
LEAST_SEEN = 3
_CHUNK = 1 << 16
# What names a matrix with a row for each token.
_TOKEN_MATRICES = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings")


def mean_rows(pieces: Sequence[Sequence[int]]) -> Rows:
    """Old ids and weights of each new row: its pieces, all alike."""
    return [(np.array(ids), np.full(len(ids), 1 / len(ids), np.float32)) for ids in pieces]


def focus_rows(pieces: Sequence[Sequence[int]], tokenizer: Tokenizer, sample: Sample) -> Rows:
    """Old ids and weights of each new row, by likeness of contexts in the sample.

    tokenizer: the longer one; its last len(pieces) ids are the new ones.
    """
    num_old = tokenizer.vocab_size - len(pieces)
    vectors, seen = _contexts(_ids(tokenizer, sample), tokenizer.vocab_size)
    known = np.flatnonzero(seen[:num_old] >= LEAST_SEEN)
    rows = mean_rows(pieces)
    if len(known) == 0:
        return rows
    for number in range(len(pieces)):
        if seen[num_old + number] < LEAST_SEEN:
            continue
        likeness = vectors[known] @ vectors[num_old + number]
        nearest = np.argsort(-likeness, kind="stable")[:NEAREST]
        weights = sparsemax(likeness[nearest])
        rows[number] = (known[nearest][weights > 0], weights[weights > 0].astype(np.float32))
    return rows


def sparsemax(scores: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """The nearest point of the simplex (Martins and Astudillo 2016); most weights become 0."""
    falling = np.sort(scores.astype(np.float64))[::-1]
    places = np.arange(1, len(falling) + 1)
    sums = np.cumsum(falling)
    support = places[1 + places * falling > sums][-1]
    found: npt.NDArray[np.float64] = np.maximum(scores - (sums[support - 1] - 1) / support, 0)
    return found


def _ids(tokenizer: Tokenizer, sample: Sample) -> Iterator[npt.NDArray[np.int64]]:
    for _, _, texts in sample:
        for text in texts:
            yield np.asarray(tokenizer.encode_batch([text])[0], np.int64)


def _contexts(
    documents: Iterator[npt.NDArray[np.int64]], size: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Unit vectors of the tokens' neighbours, (size, DIMENSIONS), and how often each was seen.

    A neighbour counts less the more frequent it is in its document's chunk.
    """
    rng = np.random.default_rng(0)
    signs = rng.choice(np.array([-1, 1], np.float32), (size, DIMENSIONS))
    vectors = np.zeros((size, DIMENSIONS), np.float32)
    seen = np.zeros(size, np.int64)
    for document in documents:
        for start in range(0, len(document), _CHUNK):
            ids = document[start : start + _CHUNK]
            number, place, count = np.unique(ids, return_inverse=True, return_counts=True)
            seen[number] += count
            marks = signs[ids] / np.sqrt(count[place], dtype=np.float32)[:, None]
            for distance in range(1, min(WINDOW, len(ids) - 1) + 1):
                np.add.at(vectors, ids[:-distance], marks[distance:])
                np.add.at(vectors, ids[distance:], marks[:-distance])
    # What is common to all contexts tells none apart.
    vectors[seen > 0] -= vectors[seen > 0].mean(0) if (seen > 0).any() else 0
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0), seen


def write_extended(
    directory: Path, model: Checkpoint, rows: Rows, old_size: int, metadata: Mapping[str, str]
) -> list[str]:
    """Write config.json and the weights of a model with `rows` appended at id `old_size`.

    Rows that the model has beyond its tokenizer's ids are used before any are added. Returns the
    names of the matrices that grew. raises: InputError where there is none.
    """

    declared = model.config.get("vocab_size")
    names = [
        name
        for name in model.names()
        if any(part in name.split(".") for part in _TOKEN_MATRICES)
        and model.shape(name)[:1] == (declared,)
    ]
    if not isinstance(declared, int) or not names:
        raise InputError(
            f"{model.directory}: no weight has vocab_size ({declared}) rows, as embeddings have;"
            " extend its tokenizer alone (name the tokenizer.json)"
        )
    if old_size > declared:
        raise InputError(
            f"{model.directory}: the tokenizer has {old_size} ids, the model {declared} rows"
        )
    tensors: dict[str, torch.Tensor] = {}
    for name in model.names():
        weight = model.load(name)
        tensors[name] = _grown(weight, rows, old_size) if name in names else weight
    config = model.config | {"vocab_size": max(declared, old_size + len(rows))}
    write_checkpoint(directory, tensors, config, metadata=metadata)
    return names


def _grown(weight: torch.Tensor, rows: Rows, old_size: int) -> torch.Tensor:
    """A matrix (or bias) with new rows from `old_size` on, summed in float32."""
    import torch

    new = torch.stack(
        [
            torch.tensordot(torch.from_numpy(weights), weight[torch.from_numpy(ids)].float(), 1)
            for ids, weights in rows
        ]
    )
    grown = [weight[:old_size], new.to(weight.dtype), weight[old_size + len(rows) :]]
    return torch.cat(grown)
