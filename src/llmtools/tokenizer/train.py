"""Training a byte-level BPE tokenizer, by the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from llmtools.errors import UsageError
from llmtools.formats.malformed import NothingLeft
from llmtools.tokenizer import split
from llmtools.tokenizer.tokenizer import EOS_NAMES, SpecialRoles, Tokenizer

TRAIN_PATTERNS = ("gpt2", "gpt4", "llama3")
DEFAULT_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NUM_BYTES = 256


def check_vocab_size(vocab_size: int, special_tokens: Sequence[str]) -> None:
    """Raises UsageError for a vocabulary that cannot hold every byte, or a token named twice."""
    least = NUM_BYTES + len(special_tokens)
    if vocab_size < least:
        raise UsageError(
            f"--vocab-size {vocab_size}: 256 bytes and {len(special_tokens)} special tokens take"
            f" {least}"
        )
    if len(set(special_tokens)) != len(special_tokens) or not all(special_tokens):
        raise UsageError(
            f"--special-tokens: {','.join(special_tokens)} has an empty or double name"
        )


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = "gpt2",
    special_tokens: Sequence[str] = DEFAULT_SPECIAL_TOKENS,
) -> Tokenizer:
    """A byte-level BPE tokenizer of at most `vocab_size` tokens, special tokens first.

    The same texts in the same order give the same tokenizer. Fewer tokens come out when the texts
    hold too few repeated pairs. raises: UsageError for sizes that cannot be, InputError when there
    is no text.
    """
    check_vocab_size(vocab_size, special_tokens)
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = split.pre_tokenizer(pattern)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(t, normalized=False, special=True) for t in special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    num_chars = 0

    def counted() -> Iterable[str]:
        nonlocal num_chars
        for text in texts:
            num_chars += len(text)
            yield text

    backend.train_from_iterator(counted(), trainer)
    if num_chars == 0:
        raise NothingLeft("no text to train a tokenizer on: every document is empty")
    eos = next((token for token in EOS_NAMES if token in special_tokens), None)
    return Tokenizer(backend.to_str(), SpecialRoles(eos=eos), "the trained tokenizer")
