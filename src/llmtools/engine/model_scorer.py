"""A language model as a scorer of documents: the perplexity of each one's tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmtools.data.batch import Batch
from llmtools.data.scorer import Scores
from llmtools.engine.load import load_with_tokenizer
from llmtools.engine.score import BATCH_TOKENS, check_context, score_windows, windows_of
from llmtools.formats.model_path import resolve_model


class ModelScorer:
    """Perplexity per token by a model directory, run, adapter, GGUF file or hf: name.

    It is `llm eval --tasks perplexity` of each document alone: no other document is in a forward
    pass with it, so that its score is the same in every batch. A document of fewer than two tokens
    has none.
    """

    def __init__(
        self, path: str, *, name: str | None = None, context: int | None, device: str
    ) -> None:
        model = resolve_model(path)
        self.where = str(model)
        self.name = name or "model_perplexity"
        self._decoder, self._tokenizer = load_with_tokenizer(model, device=device)
        self._context = check_context(self._decoder, context)

    def score(self, batch: Batch) -> Scores:
        texts = [bytes(batch.text(row)).decode() for row in range(len(batch.documents))]
        losses = np.array([self._mean_loss(text) for text in texts])
        with np.errstate(over="ignore"):
            return {self.name: np.exp(losses)}

    def _mean_loss(self, text: str) -> float:
        """Nats per token; NaN where there is none to score."""
        ids: Sequence[int] = self._tokenizer.encode(text)
        if self._tokenizer.adds_bos:
            assert self._tokenizer.bos_id is not None
            ids = [self._tokenizer.bos_id, *ids]
        total, held = 0.0, 0
        windows: list[Sequence[int]] = []
        for window in windows_of(ids, self._context):
            if windows and held + len(window) > BATCH_TOKENS:
                total += sum(float(part.sum()) for part in score_windows(self._decoder, windows))
                windows, held = [], 0
            windows.append(window)
            held += len(window)
        if windows:
            total += sum(float(part.sum()) for part in score_windows(self._decoder, windows))
        return total / (len(ids) - 1) if len(ids) > 1 else float("nan")
