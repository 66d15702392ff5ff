"""Tiny random decoders and a byte tokenizer to run the engine on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llmtools.engine.engine import Engine
from llmtools.engine.scheduler import Limits
from llmtools.model import Decoder, ModelConfig

EOS = 256


class ByteTokenizer:
    """Every byte is its own id; 256 is a special token without text."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return bytes(id for id in ids if id < 256).decode("utf-8", errors="replace")


def tiny_decoder(seed: int = 0, **changes: Any) -> Decoder:
    """Two layers, grouped heads, a vocabulary of 257, weights large enough that outputs vary."""
    settings: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": 257,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
    }
    decoder = Decoder(ModelConfig(**(settings | changes)))
    decoder.initialize(seed)
    return decoder.eval()


def tiny_engine(
    *,
    max_batch: int = 8,
    max_step_tokens: int = 64,
    max_positions: int = 1000,
    stop_ids: frozenset[int] = frozenset({EOS}),
    **changes: Any,
) -> Engine:
    limits = Limits(
        max_batch=max_batch, max_step_tokens=max_step_tokens, max_positions=max_positions
    )
    return Engine(tiny_decoder(**changes), ByteTokenizer(), stop_ids=stop_ids, limits=limits)


def prompts(count: int, longest: int = 40) -> list[list[int]]:
    """Prompts of random printable bytes, of many lengths from 1 on."""
    generator = torch.Generator().manual_seed(7)

    def draw(low: int, high: int, size: int) -> list[int]:
        return torch.randint(low, high, (size,), generator=generator).tolist()

    return [draw(32, 127, n) for n in draw(1, longest, count)]
