"""Multiple choice by log-likelihood, as lm-evaluation-harness 0.4.13 scores it.

acc: the choice with the greatest log-likelihood is the right one; acc_norm: the same after division
by the choice's length in characters, the space in front not counted. Ties go to the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import xxhash

from llmtools.engine.choices import Choices, Likelihood, score_choices
from llmtools.errors import InputError
from llmtools.evals.stats import mean_stderr
from llmtools.evals.task import DELIMITER, Example
from llmtools.model import Decoder
from llmtools.tokenizer.tokenizer import Tokenizer

METRICS = ("acc", "acc_norm")
# Positions of one forward pass, whole examples; batches depend on the examples alone, so that a run
# that was stopped goes on with the same ones and ends in the same bits.
BATCH_POSITIONS = 2048


def encode(example: Example, tokenizer: Tokenizer, max_length: int) -> list[Choices]:
    """One item whose context is shared, or one for each choice where a context had to be cut.

    Context and choice are encoded together and cut where the context alone ends; white space at the
    end of the context belongs to the choice; what is too long loses tokens at its left.
    raises: InputError for a choice without tokens or longer than the model's context.
    """
    prompt = example.context.rstrip()
    spaces = example.context[len(prompt) :]
    context = tokenizer.encode(prompt, add_special_tokens=True)
    tails = []
    for number, choice in enumerate(example.choices):
        whole = tokenizer.encode(f"{prompt}{spaces}{DELIMITER}{choice}", add_special_tokens=True)
        tail = whole[len(context) :]
        if not 1 <= len(tail) <= max_length:
            raise InputError(
                f"example {example.id}: choice {number} has {len(tail)} tokens, the model takes 1"
                f" to {max_length}"
            )
        tails.append(tail)
    if len(context) + max(map(len, tails)) <= max_length + 1:
        return [Choices(context=context, continuations=tails)]
    return [
        Choices(context=context[-(max_length + 1 - len(tail)) :], continuations=[tail])
        for tail in tails
    ]


def batches(
    examples: Sequence[Example], tokenizer: Tokenizer, max_length: int
) -> Iterator[tuple[int, list[list[Choices]]]]:
    """The items of each batch of examples, with the number of its first example."""
    held: list[list[Choices]] = []
    num_positions = first = 0
    for number, example in enumerate(examples):
        items = encode(example, tokenizer, max_length)
        cost = sum(item.num_positions for item in items)
        if held and num_positions + cost > BATCH_POSITIONS:
            yield first, held
            held, num_positions, first = [], 0, number
        held.append(items)
        num_positions += cost
    if held:
        yield first, held


def score_batch(decoder: Decoder, held: list[list[Choices]]) -> list[list[Likelihood]]:
    """The likelihoods of every choice of each example."""
    scored = iter(score_choices(decoder, [item for items in held for item in items]))
    return [[one for _ in items for one in next(scored)] for items in held]


def sample(label: str, example: Example, found: Sequence[Likelihood]) -> dict[str, Any]:
    """The record of one example in samples.jsonl."""
    totals = [one.log_likelihood for one in found]
    lengths = [len(choice) for choice in example.choices]
    per_character = [total / length for total, length in zip(totals, lengths, strict=True)]
    prompt = "\0".join([example.context, *example.choices])
    return {
        "task": label,
        "id": example.id,
        "prompt_hash": xxhash.xxh3_64_hexdigest(prompt.encode()),
        "gold": example.gold,
        "log_likelihoods": totals,
        "is_greedy": [one.is_greedy for one in found],
        "num_characters": lengths,
        "acc": int(_first_greatest(totals) == example.gold),
        "acc_norm": int(_first_greatest(per_character) == example.gold),
    }


def _first_greatest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda at: (values[at], -at))


def metrics(samples: Sequence[dict[str, Any]]) -> dict[str, float | int]:
    """acc and acc_norm with their standard errors, and n."""
    found: dict[str, float | int] = {}
    for name in METRICS:
        values = [float(one[name]) for one in samples]
        found[name] = sum(values) / len(values)
        found[f"{name}_stderr"] = mean_stderr(values)
    return found | {"n": len(samples)}
