"""Perplexity: windows, what is scored, and the count of bytes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from llmtools.engine.score import perplexity, score_windows, windows_of
from llmtools.errors import InputError, UsageError
from llmtools.model import Decoder, PackedRows, config_from_hf
from toy_tokenizer import ADVERSARIAL, TEXTS, toy_tokenizer

TINY = {
    "model_type": "llama", "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    decoder = Decoder(config_from_hf(TINY, "test"))
    decoder.initialize(seed=0)
    return decoder.eval()


def one_by_one(decoder: Decoder, ids: list[int], context: int) -> list[float]:
    """Each token's loss by a forward pass of its own, straight from the definition."""
    losses = []
    for at in range(1, len(ids)):
        first = (at - 1) // (context - 1) * (context - 1)
        with torch.no_grad():
            hidden = decoder(torch.tensor(ids[first:at]), PackedRows([at - first]))
            log_probs = decoder.logits(hidden[-1:]).double().log_softmax(-1)
        losses.append(-log_probs[0, ids[at]].item())
    return losses


@pytest.mark.parametrize(("length", "context"), [(2, 64), (9, 4), (10, 4), (11, 4), (64, 64)])
def test_windows_score_every_token_but_the_first_exactly_once(length, context):
    windows = list(windows_of(list(range(length)), context))
    assert [id for window in windows for id in window[1:]] == list(range(1, length))
    assert all(2 <= len(window) <= context for window in windows)
    assert all(a[-1] == b[0] for a, b in itertools.pairwise(windows))


@pytest.mark.parametrize("context", [5, 64])
def test_perplexity_equals_token_by_token_scoring(decoder, context):
    tokenizer = toy_tokenizer()
    ids = [tokenizer.encode(text) for text in TEXTS[:3]]
    expected = [loss for one in ids for loss in one_by_one(decoder, one, context)]
    result = perplexity(decoder, tokenizer, TEXTS[:3], context=context)
    assert result.tokens == len(expected)
    assert result.nll_per_token == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.nll_per_token))
    scored = sum(len(tokenizer.decode(one[1:]).encode()) for one in ids)
    assert result.bytes == scored
    assert result.bits_per_byte == pytest.approx(sum(expected) / math.log(2) / scored, rel=1e-5)


def test_the_limit_keeps_the_first_tokens_of_the_input(decoder):
    tokenizer = toy_tokenizer()
    first, second = (tokenizer.encode(text) for text in TEXTS[:2])
    limit = len(first) + 3
    losses = one_by_one(decoder, first, 64) + one_by_one(decoder, second[:3], 64)
    result = perplexity(decoder, tokenizer, TEXTS, limit_tokens=limit)
    assert (result.tokens, result.documents) == (limit - 2, 2)
    assert result.nll_per_token == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_a_text_that_tokens_cannot_be_scored_in_is_an_error(decoder):
    with pytest.raises(InputError, match="no token to score"):
        perplexity(decoder, toy_tokenizer(), ["", "a"])
    for context in (1, 65):
        with pytest.raises(UsageError, match="2 to 64"):
            perplexity(decoder, toy_tokenizer(), TEXTS, context=context)


def test_windows_of_one_batch_do_not_see_each_other(decoder):
    a, b = list(range(3, 20)), list(range(30, 60))
    together = score_windows(decoder, [a, b])
    for window, scores in zip((a, b), together, strict=True):
        assert scores == pytest.approx(score_windows(decoder, [window])[0], rel=1e-5)


@pytest.mark.parametrize("text", [*ADVERSARIAL, *TEXTS], ids=range(len(ADVERSARIAL + TEXTS)))
def test_token_ends_cover_the_bytes_of_a_text(text):
    ids, ends = toy_tokenizer().encode_with_ends(text)
    assert ids == toy_tokenizer().encode(text)
    assert len(ends) == len(ids)
    assert all(a <= b for a, b in itertools.pairwise(ends))
    assert (ends[-1] if len(ends) else 0) == len(text.encode())
