"""Plans of scorer train and score: the checks of a real run, then memory, disk and time."""

from __future__ import annotations

import os
from pathlib import Path

from llmtools.formats.skips import OnError, check_rejects
from llmtools.formats.vectors import open_vectors
from llmtools.plan.costs import (
    COSTS,
    check_files,
    checked_sizes,
    facts_of,
    plan_documents,
    time_of,
    with_reader,
    with_rejects,
)
from llmtools.plan.estimate import UNKNOWN_INPUT, Estimate, Plan
from llmtools.plan.inputs import (
    sample_documents,
)

# Bytes for each byte of input and each order.
NGRAM_MEMORY = 10.0
NGRAM_DISK = 2.0
# The record, the text twice, its words and the rows of its n-grams.
CLASSIFIER_MEMORY = 6.0


def plan_scorer_train(
    names: list[str],
    output: str,
    *,
    rejects: str | None,
    on_error: OnError,
    text_key: str,
    order: int,
    force: bool,
) -> Plan:
    """Memory and disk are those of the n-grams, nearly all of which occur once."""
    outputs = with_rejects(output, rejects)
    sizes = checked_sizes(
        names, outputs, rejects=rejects, on_error=on_error, text_key=text_key, force=force
    )
    memory = disk = UNKNOWN_INPUT
    if sizes.content is not None:
        value = COSTS["scorer train"].memory + NGRAM_MEMORY * order * sizes.content
        each = f"for each byte of input and order, measured; {sizes.basis}"
        memory = Estimate(value=value, basis=f"at most, {NGRAM_MEMORY:g} bytes {each}")
        stored = NGRAM_DISK * order * sizes.content
        disk = Estimate(value=stored, basis=f"at most, {NGRAM_DISK:g} bytes {each}")
    return Plan(
        command="scorer train",
        memory=with_reader(memory, sizes),
        disk=disk,
        time=time_of("scorer train", sizes.content),
        outputs=outputs,
        facts=facts_of(names, sizes.content, order=order),
    )


def plan_classifier_train(
    names: list[str],
    output: str,
    num_weights: int,
    *,
    rejects: str | None,
    on_error: OnError,
    text_key: str,
    force: bool,
) -> Plan:
    """Memory is that of the texts, their n-grams and the weights; disk that of the weights."""
    outputs = with_rejects(output, rejects)
    sizes = checked_sizes(
        names, outputs, rejects=rejects, on_error=on_error, text_key=text_key, force=force
    )
    weights = 4 * num_weights
    memory = UNKNOWN_INPUT
    if sizes.content is not None:
        value = COSTS["score"].memory + 2 * weights + CLASSIFIER_MEMORY * sizes.content
        basis = f"{CLASSIFIER_MEMORY:g} bytes for each byte of input, and the weights twice"
        memory = Estimate(value=value, basis=f"at most, {basis}; {sizes.basis}")
    return Plan(
        command="scorer train",
        memory=with_reader(memory, sizes),
        disk=Estimate(value=weights, basis="at most, four bytes a weight"),
        time=time_of("scorer train", sizes.content),
        outputs=outputs,
        facts=facts_of(names, sizes.content, weights=num_weights),
    )


def plan_regression_train(
    names: list[str],
    output: str,
    vectors: str | None,
    encoder: str | None,
    *,
    rejects: str | None,
    on_error: OnError,
    text_key: str,
    force: bool,
) -> Plan:
    """Memory is that of the vectors, or of the model that gives them."""
    outputs = with_rejects(output, rejects)
    sizes = checked_sizes(
        names, outputs, rejects=rejects, on_error=on_error, text_key=text_key, force=force
    )
    dim, held, basis = 0, 0, ""
    if vectors is not None:
        matrix = open_vectors(Path(vectors))
        dim, held, basis = matrix.shape[1], matrix.nbytes, "the vectors"
    elif encoder is not None:
        # Not at the top: it imports torch, which no other plan of a data command needs.
        from llmtools.model.load import read_shape

        config, held = read_shape(Path(encoder))
        dim, basis = config.hidden_size, "the model's weights, in 32 bits twice their file at most"
        held *= 4
    return Plan(
        command="scorer train",
        memory=Estimate(value=COSTS["score"].memory + held, basis=f"at most, {basis}"),
        disk=Estimate(value=8 * dim, basis="eight bytes a weight"),
        time=Estimate(
            value=None,
            basis="unknown (a pass of the model over each document)"
            if encoder
            else "unknown (seconds: reading the documents)",
        ),
        outputs=outputs,
        facts=facts_of(names, sizes.content, dim=dim),
    )


def plan_score(
    names: list[str],
    output: str,
    *,
    scorers: list[str],
    rejects: str | None,
    on_error: OnError,
    text_key: str,
    force: bool,
) -> Plan:
    """Memory is that of one batch and of the scorers."""
    check_rejects(output, rejects, on_error, force=force)
    outputs = with_rejects(output, rejects)
    check_files(outputs, force=force)
    sample = sample_documents(names, text_key=text_key, on_error=on_error)
    held = sum(os.path.getsize(path) for path in scorers if os.path.isfile(path))
    basis = "one batch of documents, measured, and the scorers' files"
    peak = Estimate(value=COSTS["score"].memory + held, basis=basis)
    return plan_documents("score", names, outputs, sample, lambda documents, basis: peak)
