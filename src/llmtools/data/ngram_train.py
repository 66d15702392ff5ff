"""The whole of `llm scorer train --kind ngram`: documents to a language model's file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from llmtools import terminal
from llmtools.data.ngram_arpa import dump_arpa
from llmtools.data.ngram_estimate import (
    BATCH_BYTES,
    NGramSettings,
    Order,
    estimate,
    hashed,
    read_corpus,
)
from llmtools.data.ngram_lm import (
    NGramModel,
    build_model,
    dump_model,
    percentiles_of,
    perplexity_of,
)
from llmtools.errors import UsageError
from llmtools.formats.document import read_documents
from llmtools.formats.input_names import bare_suffix, expand_inputs
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import claim_outputs, open_output
from llmtools.formats.skips import OnError, open_skips
from llmtools.formats.stream import names_of

SUFFIXES = (".safetensors", ".arpa")


def train_ngram_model(
    inputs: list[str],
    output: str,
    settings: NGramSettings,
    *,
    held_out: list[str] | None = None,
    rejects: str | None = None,
    on_error: OnError = "fail",
    text_key: str = "text",
    force: bool = False,
) -> dict[str, Any]:
    """Write the model, by the output's suffix as safetensors or ARPA; returns the counts.

    held_out: documents whose perplexities give the model's percentiles, the training documents'
    own where none are named; an ARPA file has no place for percentiles. Raises InputError for bad
    input and where no document has a word.
    """
    check_suffix(output, held_out)
    others = expand_inputs(held_out) if held_out else []
    recorder = Recorder("scorer train", {"kind": "ngram"} | asdict(settings))
    with (
        claim_outputs([output], force=force, is_directory=False),
        open_skips(output, rejects, on_error, force=force) as skips,
    ):
        with terminal.progress("scorer train", unit="doc") as bar:

            def texts(names: list[str]) -> Iterator[str]:
                documents = read_documents(
                    names, text_key=text_key, on_read=recorder.read, skips=skips
                )
                for document in documents:
                    bar.update()
                    yield document.text

            try:
                corpus = read_corpus(texts(inputs), settings.normalize)
            except NothingLeft as fault:
                if bar.count:
                    raise
                raise NothingLeft(
                    f"{names_of(inputs)}: no documents in the input{skips.explain()}"
                ) from fault
            num_documents = bar.count
            facts: list[_Facts] = []
            orders = _noted(estimate(corpus, settings), facts)
            is_arpa = bare_suffix(output) == ".arpa"
            if is_arpa:
                pieces: Iterator[bytes | memoryview] = dump_arpa(corpus, list(orders))
            else:
                model = build_model(
                    hashed(corpus, orders), normalize=settings.normalize, documents=num_documents
                )
                found = (
                    _perplexities(model, texts(others))
                    if others
                    else perplexity_of(*model.score_words(corpus.as_words()))
                )
                pieces = dump_model(replace(model, percentiles=percentiles_of(found)))
        skips.record(recorder)
        with open_output(output, force=force, compress=is_arpa) as out:
            for piece in pieces:
                out.write(piece)
    recorder.count(
        documents=num_documents,
        words=len(corpus.words),
        tokens=len(corpus.ids),
        ngrams=[one.ngrams for one in facts],
        discounts=[one.discounts for one in facts],
        fallback_orders=[n for n, one in enumerate(facts, 1) if one.is_fallback],
    )
    recorder.wrote(out)
    recorder.write_beside(output)
    return recorder.counts


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the manifest says of one order."""

    ngrams: int
    discounts: list[float]
    is_fallback: bool


def _noted(orders: Iterator[Order], facts: list[_Facts]) -> Iterator[Order]:
    """The orders as they come, none held; `facts` gets what is to be remembered."""
    for one in orders:
        facts.append(_Facts(len(one.probs), list(one.discounts), one.is_fallback))
        yield one
        del one


def check_suffix(output: str, held_out: list[str] | None = None) -> None:
    """Raises UsageError for an output that is neither format, or cannot hold percentiles."""
    suffix = bare_suffix(output)
    if suffix not in SUFFIXES or (suffix == ".safetensors" and not output.endswith(suffix)):
        raise UsageError(
            f"-o {output}: name FILE.safetensors, or FILE.arpa (also .arpa.gz, .arpa.zst)"
        )
    if held_out and suffix == ".arpa":
        raise UsageError("--held-out has no effect: an ARPA file has no place for percentiles")


def _perplexities(model: NGramModel, texts: Iterator[str]) -> np.ndarray:
    """Of each text, in batches."""
    found = [np.zeros(0)]
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            found.append(model.perplexities(held))
            held, size = [], 0
    if held:
        found.append(model.perplexities(held))
    return np.concatenate(found)
