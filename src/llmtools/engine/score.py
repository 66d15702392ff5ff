"""Log-likelihoods of given tokens, and perplexity from them.

A text is scored in disjoint windows; each later one opens with the last token of the one before it
as context, so that every token but the first is scored exactly once. The first is scored only where
the tokenizer itself prepends BOS; else it is context. Documents are scored apart: none is context
of the next. On one window, nll_per_token equals transformers' `loss` for `labels=input_ids`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from llmtools.engine.load import load_with_tokenizer
from llmtools.errors import InputError, UsageError
from llmtools.model import Decoder, PackedRows
from llmtools.terminal import Progress
from llmtools.tokenizer.tokenizer import Tokenizer

MAX_CONTEXT = 2048
# Tokens of one forward pass, and positions whose logits are in memory at once: 256 rows of a
# vocabulary of 49,152 are 50 MB in fp32.
BATCH_TOKENS = 2048
LOGIT_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityResult:
    """nll_per_token in nats over `tokens` scored tokens, which are `bytes` bytes of UTF-8."""

    nll_per_token: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes: int
    documents: int


@torch.inference_mode()
def score_windows(decoder: Decoder, windows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Negative log-likelihoods (nats, float64) of every token but the first of each window.

    All windows are one forward pass; only their logits are computed in pieces.
    """
    device = next(decoder.parameters()).device
    inputs = [list(window[:-1]) for window in windows]
    targets = [id for window in windows for id in window[1:]]
    ids_T = torch.tensor([id for window in inputs for id in window], device=device)
    hidden_TC = decoder(ids_T, PackedRows([len(window) for window in inputs], device))
    labels_T = torch.tensor(targets, device=device)
    pieces = [
        torch.nn.functional.cross_entropy(decoder.logits(hidden).double(), labels, reduction="none")
        for hidden, labels in zip(
            hidden_TC.split(LOGIT_ROWS), labels_T.split(LOGIT_ROWS), strict=True
        )
    ]
    losses = torch.cat(pieces).cpu().numpy()
    ends = np.cumsum([len(window) for window in inputs])
    return np.split(losses, ends[:-1])


def windows_of(ids: Sequence[int], context: int) -> Iterator[Sequence[int]]:
    """Windows of at most `context` tokens in which every token but the first is new once."""
    for start in range(0, len(ids) - 1, context - 1):
        yield ids[start : start + context]


def check_context(decoder: Decoder, context: int | None) -> int:
    """The window length: as asked, else the model's, at most 2,048; UsageError where impossible."""
    limit = decoder.config.max_position_embeddings
    if context is None:
        return min(limit, MAX_CONTEXT)
    if not 2 <= context <= limit:
        raise UsageError(f"--context {context}: this model takes 2 to {limit} tokens")
    return context


def perplexity(
    decoder: Decoder,
    tokenizer: Tokenizer,
    documents: Iterable[str],
    *,
    context: int | None = None,
    limit_tokens: int | None = None,
    progress: Progress | None = None,
) -> PerplexityResult:
    """Perplexity of documents in order, the first `limit_tokens` tokens of them in all.

    raises: InputError when no token can be scored, UsageError for an impossible context.
    """
    size = check_context(decoder, context)
    total, num_tokens, num_bytes, num_documents, left = 0.0, 0, 0, 0, limit_tokens
    batch: list[Sequence[int]] = []

    def flush() -> float:
        scores = score_windows(decoder, batch) if batch else []
        if progress is not None:
            progress.update(sum(map(len, scores)))
        batch.clear()
        return float(sum(score.sum() for score in scores))

    for text in documents:
        if left is not None and left <= 0:
            break
        ids, ends = tokenizer.encode_with_ends(text)
        if left is not None:
            ids, ends = ids[:left], ends[:left]
            left -= len(ids)
        if not ids:
            continue
        num_documents += 1
        num_bytes += int(ends[-1]) - (0 if tokenizer.adds_bos else int(ends[0]))
        if tokenizer.adds_bos:
            assert tokenizer.bos_id is not None
            ids = [tokenizer.bos_id, *ids]
        num_tokens += len(ids) - 1
        for window in windows_of(ids, size):
            if sum(map(len, batch)) + len(window) > BATCH_TOKENS:
                total += flush()
            batch.append(window)
    total += flush()
    if num_tokens == 0 or num_bytes == 0:
        raise InputError("the documents have no token to score; perplexity needs at least two")
    mean = total / num_tokens
    return PerplexityResult(
        nll_per_token=mean,
        perplexity=math.exp(mean) if mean < 700 else math.inf,
        bits_per_byte=total / math.log(2) / num_bytes,
        tokens=num_tokens,
        bytes=num_bytes,
        documents=num_documents,
    )


def perplexity_of_model(
    path: Path,
    documents: Iterable[str],
    *,
    base: Path | None = None,
    context: int | None = None,
    limit_tokens: int | None = None,
    device: str = "auto",
) -> PerplexityResult:
    """perplexity() of a MODEL argument with its own tokenizer."""
    decoder, tokenizer = load_with_tokenizer(path, base=base, device=device)
    return perplexity(decoder, tokenizer, documents, context=context, limit_tokens=limit_tokens)
