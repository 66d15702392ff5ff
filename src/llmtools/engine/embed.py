"""Vectors of texts: the mean of a language model's last hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from llmtools.engine.load import load_with_tokenizer
from llmtools.model import PackedRows

MAX_TOKENS = 512


class Embedder:
    """A MODEL (directory, run, GGUF file) that gives texts vectors.

    A text's vector is the mean over its first 512 tokens of the states behind the last norm; zeros
    for a text without tokens. Texts are run one by one: in one batch with others, the last bits of
    a vector would depend on them.
    """

    def __init__(self, path: Path, *, device: str = "auto") -> None:
        self._decoder, self._tokenizer = load_with_tokenizer(path, device=device)
        self.dim = self._decoder.config.hidden_size
        self._limit = min(MAX_TOKENS, self._decoder.config.max_position_embeddings)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(N, dim) float32."""
        found = np.zeros((len(texts), self.dim), np.float32)
        device = next(self._decoder.parameters()).device
        for row, text in enumerate(texts):
            ids = self._tokenizer.encode(text)
            if self._tokenizer.adds_bos and self._tokenizer.bos_id is not None:
                ids = [self._tokenizer.bos_id, *ids]
            ids = ids[: self._limit]
            if ids:
                hidden_TC = self._decoder(
                    torch.tensor(ids, device=device), PackedRows([len(ids)], device)
                )
                found[row] = hidden_TC.float().mean(dim=0).cpu().numpy()
        return found
