"""Plans of tokenizer train, extend and compare: the checks of a real run, then what it takes."""

from __future__ import annotations

from llmtools.formats.skips import OnError, check_rejects
from llmtools.plan.costs import (
    COSTS,
    check_files,
    facts_of,
    time_of,
)
from llmtools.plan.estimate import UNKNOWN_INPUT, Estimate, Plan
from llmtools.plan.inputs import (
    measure_inputs,
    sample_documents,
)
from llmtools.tokenizer.train import TrainSettings

# Bytes for each byte of input, of prose, code and text in 46 languages.
TOKENIZER_GROWTH = 4


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
    check_rejects(outputs[0], rejects, on_error, force=force)
    check_files(outputs, force=force)
    sample_documents(names, text_key=text_key, on_error=on_error)
    sizes = measure_inputs(names)
    memory = UNKNOWN_INPUT
    if sizes.content is not None:
        words = min(TOKENIZER_GROWTH * sizes.content, settings.memory_bytes)
        value = COSTS["tokenizer train"].memory + words
        basis = "at most, 4 bytes for each byte of input, measured, up to --memory"
        memory = Estimate(value=value, basis=basis)
    return Plan(
        command="tokenizer train",
        memory=memory,
        disk=Estimate(value=65 * settings.vocab_size, basis="65 bytes a token, measured"),
        time=time_of("tokenizer train", sizes.content),
        outputs=outputs,
        facts=facts_of(names, sizes.content, vocab_size=settings.vocab_size),
    )
