"""Plans of tokenizer train, extend and compare: the checks of a real run, then what it takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from llmtools.formats.checkpoint import Checkpoint, open_checkpoint
from llmtools.formats.output import check_outputs
from llmtools.formats.skips import OnError, check_rejects
from llmtools.plan.costs import (
    COSTS,
    MB,
    MEASURED,
    check_files,
    checked_sizes,
    facts_of,
    time_of,
    with_reader,
    with_rejects,
)
from llmtools.plan.estimate import UNKNOWN_INPUT, Estimate, Plan
from llmtools.plan.inputs import (
    measure_inputs,
    sample_documents,
)
from llmtools.tokenizer.extend import check_extension
from llmtools.tokenizer.tokenizer import Tokenizer
from llmtools.tokenizer.train import TrainSettings

# Bytes for each byte of input, of prose, code and text in 46 languages.
TOKENIZER_GROWTH = 2
# Bytes for each byte of a tokenizer.json: parsed here and by the library, and its ids by name.
VOCABULARY_GROWTH = 20
# Bytes of a token and its merge in a tokenizer.json.
TOKEN_BYTES = 65
# Importing it.
TORCH = 120 * MB
# Languages and sources of the documents; nobody knows before they are read.
COMPARED_GROUPS = 20
# The text of a sample, and its tokens.
SAMPLE_GROWTH = 12
READ_RATE = 200 * MB


def plan_tokenizer_train(
    names: list[str],
    outputs: list[str],
    *,
    rejects: str | None,
    on_error: OnError,
    text_key: str,
    settings: TrainSettings,
    force: bool,
) -> Plan:
    """Memory is that of the different words, up to the limit beyond which they go to disk."""
    outputs = outputs if rejects is None else [*outputs, rejects]
    sizes = checked_sizes(
        names, outputs, rejects=rejects, on_error=on_error, text_key=text_key, force=force
    )
    memory = UNKNOWN_INPUT
    if sizes.content is not None:
        words = min(TOKENIZER_GROWTH * sizes.content, settings.memory_bytes)
        value = COSTS["tokenizer train"].memory + words
        basis = "at most, 4 bytes for each byte of input, measured, up to --memory"
        memory = Estimate(value=value, basis=basis)
    return Plan(
        command="tokenizer train",
        memory=with_reader(memory, sizes),
        disk=Estimate(
            value=TOKEN_BYTES * settings.vocab_size, basis=f"{TOKEN_BYTES} bytes a token, measured"
        ),
        time=time_of("tokenizer train", sizes.content),
        outputs=outputs,
        facts=facts_of(names, sizes.content, vocab_size=settings.vocab_size),
    )


def plan_tokenizer_extend(
    names: list[str],
    output: str,
    tokenizer: Tokenizer,
    model: Path | None,
    *,
    num_new: int,
    memory_bytes: int,
    rejects: str | None,
    on_error: OnError,
    text_key: str,
    force: bool,
) -> Plan:
    """As training, with the old vocabulary in memory, and of a `model` all its weights."""
    check_outputs([output], force=force)
    if model is None:
        check_files([output], force=force)
    check_rejects(output, rejects, on_error, force=force)
    size = len(json.dumps(check_extension(tokenizer, num_new, memory_bytes)))
    sample_documents(names, text_key=text_key, on_error=on_error)
    sizes = measure_inputs(names)
    disk = float(size + TOKEN_BYTES * num_new)
    held, basis = 0.0, "the vocabulary"
    if model is not None:
        weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        shape = open_checkpoint(model)
        disk += weights + 2 * num_new * _row_bytes(shape)
        held, basis = TORCH + 2.0 * weights, "the vocabulary and the model's weights"
    memory = UNKNOWN_INPUT
    if sizes.content is not None:
        words = min(TOKENIZER_GROWTH * sizes.content, memory_bytes)
        value = COSTS["tokenizer train"].memory + words + VOCABULARY_GROWTH * size + held
        memory = Estimate(value=value, basis=f"at most, as training, with {basis}")
    return Plan(
        command="tokenizer extend",
        memory=with_reader(memory, sizes),
        disk=Estimate(value=disk, basis=f"{basis}, and {TOKEN_BYTES} bytes a new token"),
        time=time_of("tokenizer train", sizes.content),
        outputs=with_rejects(output, rejects),
        facts=facts_of(
            names,
            sizes.content,
            vocab_size=tokenizer.vocab_size,
            vocab_size_after=tokenizer.vocab_size + num_new,
        ),
    )


def _row_bytes(model: Checkpoint) -> int:
    """Bytes of a token's row of an embedding in 32 bits, the most that a checkpoint has."""
    return 4 * int(model.config.get("hidden_size") or 0)


def plan_tokenizer_compare(
    names: list[str],
    tokenizers: Sequence[Tokenizer],
    *,
    sample_bytes: int,
    on_error: OnError,
    text_key: str,
) -> Plan:
    """Every document is read; of each language and source a part is kept and encoded."""
    sample_documents(names, text_key=text_key, on_error=on_error)
    sizes = measure_inputs(names)
    memory = time = UNKNOWN_INPUT
    if sizes.content is not None:
        kept = min(sizes.content, sample_bytes * COMPARED_GROUPS)
        vocabularies = sum(len(tokenizer.to_json()) for tokenizer in tokenizers)
        value = COSTS["tokenizer compare"].memory + SAMPLE_GROWTH * kept
        memory = Estimate(
            value=value + VOCABULARY_GROWTH * vocabularies,
            basis=f"the vocabularies; --sample-bytes of {COMPARED_GROUPS} languages and sources",
        )
        cost = COSTS["tokenizer compare"]
        seconds = cost.start_s + sizes.content / READ_RATE + len(tokenizers) * kept / cost.rate
        time = Estimate(value=seconds, basis=f"input size and sample, {MEASURED}")
    return Plan(
        command="tokenizer compare",
        memory=with_reader(memory, sizes),
        disk=Estimate(value=0, basis="nothing is written"),
        time=time,
        facts=facts_of(names, sizes.content, tokenizers=len(tokenizers)),
    )
