"""Packed shards of random documents, and the config of a decoder small enough to train in tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from llmtools.formats.packed import PackedRow, PackedWriter
from llmtools.formats.tokens import Vocabulary

VOCAB_SIZE = 67
CONFIG = {
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}


def write_config(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps(CONFIG | changes))
    return path


def write_packed(
    directory: Path,
    *,
    num_rows: int = 22,
    seq_len: int = 16,
    one_document_rows: bool = False,
    tokenizer: str = "test",
    vocab_size: int = VOCAB_SIZE,
    seed: int = 0,
) -> Path:
    """Rows of several documents of random length, of few frequent tokens."""
    generator = np.random.default_rng(seed)
    directory.mkdir()
    writer = PackedWriter(
        directory,
        seq_len=seq_len,
        vocabulary=Vocabulary(tokenizer=tokenizer, vocab_size=vocab_size),
    )
    for _ in range(num_rows):
        width = seq_len + 1
        cuts = np.sort(generator.choice(np.arange(1, width), 3, replace=False))
        lengths = [width] if one_document_rows else np.diff([0, *cuts, width]).tolist()
        ids = np.minimum(generator.geometric(0.15, width), vocab_size) - 1
        writer.add(
            PackedRow(
                input_ids=ids,
                segment_lengths=np.array(lengths, np.int32),
                segment_document_ids=generator.integers(1, 99, len(lengths)).astype(np.uint64),
            )
        )
    writer.close()
    return directory
