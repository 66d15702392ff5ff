"""The perplexity task: any model on any documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from llmtools import terminal
from llmtools.engine.load import load_with_tokenizer
from llmtools.engine.score import check_context, perplexity
from llmtools.formats.document import read_documents
from llmtools.formats.stream import InputStream


def evaluate_perplexity(
    model: Path,
    inputs: Sequence[str],
    *,
    base: Path | None,
    context: int | None,
    limit_tokens: int | None,
    text_key: str,
    device: str,
    on_read: Callable[[InputStream], None],
) -> tuple[dict[str, float | int], str]:
    """The metrics of engine.score.PerplexityResult, and the tokenizer's identity.

    raises: InputError for a bad model, bad documents or nothing to score.
    """
    decoder, tokenizer = load_with_tokenizer(model, base=base, device=device)
    check_context(decoder, context)
    with terminal.progress("perplexity", total=limit_tokens, unit="tok") as bar:
        texts = (d.text for d in read_documents(inputs, text_key=text_key, on_read=on_read))
        result = perplexity(
            decoder, tokenizer, texts, context=context, limit_tokens=limit_tokens, progress=bar
        )
    return asdict(result), tokenizer.identity
