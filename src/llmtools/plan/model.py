"""Plans of the commands that read a model: quantize, eval, generate, serve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llmtools.adapters.load import base_of, is_adapter, shape_of, tokenizer_path_for
from llmtools.engine.cache import default_positions, position_bytes
from llmtools.engine.defaults import read_generation_defaults
from llmtools.engine.score import BATCH_TOKENS, LOGIT_ROWS
from llmtools.errors import InputError, UsageError
from llmtools.formats.input_names import STDIO
from llmtools.formats.model_path import resolve_model
from llmtools.formats.space import check_space
from llmtools.model.config import ModelConfig
from llmtools.model.load import count_parameters, pick_device
from llmtools.plan.estimate import UNKNOWN_INPUT, Estimate, Plan, matmul_rate, read_rate
from llmtools.plan.inputs import measure_inputs, sample_documents
from llmtools.plan.train import BASE_BYTES
from llmtools.quant.gguf_export import prepare_export
from llmtools.quant.rtn import Scheme
from llmtools.tokenizer.load import load_tokenizer
from llmtools.tokenizer.tokenizer import Tokenizer

WEIGHT_BYTES = 4
NO_DISK = Estimate(value=0, basis="nothing is written")
# The largest tensor while it is rounded, against its size in fp32: the values, their blocks.
TENSOR_COPIES = 2.5
# The process that rounds: torch is loaded for a directory alone.
ROUNDING_BYTES = {True: 300_000_000, False: 120_000_000}
# Weights a second that one thread rounds to blocks, measured with SmolLM2-135M.
ROUNDED_PER_S = 25e6
# Of the rate of large products, what scoring a text reaches.
SHARE_OF_RATE = 0.5


class _Model:
    """A MODEL argument whose headers, tokenizer and device have been checked."""

    def __init__(self, path: Path, base: Path | None, device: str) -> None:
        self.device = pick_device(device)
        self.config: ModelConfig
        self.config, self.stored_bytes = shape_of(path, base=base)
        place = tokenizer_path_for(path, base=base)
        read_generation_defaults(place)
        self.tokenizer: Tokenizer = load_tokenizer(place)
        if self.tokenizer.vocab_size > self.config.vocab_size:
            raise InputError(
                f"{path}: its tokenizer has {self.tokenizer.vocab_size} ids but the model"
                f" {self.config.vocab_size}; they do not belong together"
            )
        self.parameters = count_parameters(self.config)
        self.weight_bytes = WEIGHT_BYTES * self.parameters

    @property
    def position_bytes(self) -> int:
        return position_bytes(self.config, torch.float32)

    @property
    def resident_bytes(self) -> int:
        """The program, the weights, and the pages of the file they were read from."""
        return BASE_BYTES + self.weight_bytes + self.stored_bytes

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "parameters": self.parameters,
            "weight_bytes": self.weight_bytes,
            "cache_bytes_per_token": self.position_bytes,
            "context": self.config.max_position_embeddings,
            "device": str(self.device),
        }


def plan_generate(
    path: Path,
    *,
    base: Path | None,
    device: str,
    prompt_ids: Any,
    max_tokens: int,
) -> Plan:
    """prompt_ids: makes the prompt's ids from the tokenizer; None for --jsonl from stdin."""
    model = _Model(path, base, device)
    if prompt_ids is None:
        memory = time = UNKNOWN_INPUT
        facts = model.facts
    else:
        count = len(prompt_ids(model.tokenizer))
        room = model.config.max_position_embeddings - count
        if room < 1:
            raise InputError(
                f"the prompt has {count} tokens; this model reads"
                f" {model.config.max_position_embeddings}, and one must be left for the answer"
            )
        new = min(max_tokens, room)
        cache = model.position_bytes * (count + new)
        memory = Estimate(
            value=model.resident_bytes + cache,
            basis=f"fp32 weights {model.weight_bytes:,}, the file {model.stored_bytes:,}, cache of"
            f" {count + new:,} tokens {cache:,}, the program {BASE_BYTES:,}",
        )
        rate = read_rate(model.device)
        prefill = 2 * model.parameters * count / (matmul_rate(model.device) * SHARE_OF_RATE)
        time = Estimate(
            value=prefill + new * model.weight_bytes / rate,
            basis=f"each of at most {new} new tokens reads all weights, at {rate / 1e9:.0f} GB/s"
            " that memory gives now; loading not counted",
        )
        facts = {**model.facts, "prompt_tokens": count, "new_tokens_at_most": new}
    return Plan(
        command="generate", memory=memory, disk=NO_DISK, time=time, outputs=[STDIO], facts=facts
    )


def plan_serve(path: Path, *, base: Path | None, device: str, max_batch: int) -> Plan:
    """Memory when every place of the batch is taken by a request of the whole context."""
    model = _Model(path, base, device)
    most = default_positions(model.config, model.device, torch.float32)
    positions = min(max_batch * model.config.max_position_embeddings, most)
    cache = model.position_bytes * positions
    return Plan(
        command="serve",
        memory=Estimate(
            value=model.resident_bytes + cache,
            basis=f"at most: fp32 weights {model.weight_bytes:,}, the file {model.stored_bytes:,},"
            f" cache of {positions:,} tokens {cache:,}, the program {BASE_BYTES:,}",
        ),
        disk=NO_DISK,
        time=Estimate(value=None, basis="unknown (until it is stopped)"),
        facts=model.facts,
    )


def _scoring(
    model: _Model, documents: Sequence[str], text_key: str, limit_tokens: int | None
) -> tuple[float | None, float]:
    """Tokens to score, None where a pipe is read, and the bytes that scoring takes at once."""
    tokens: float | None = limit_tokens if documents else 0
    sample = sample_documents(documents, text_key=text_key)
    sizes = measure_inputs(documents)
    if sizes.content is not None and documents:
        encoded = model.tokenizer.encode_batch(sample.texts)
        share = sample.documents_in(sizes.content) / max(len(sample.raw), 1)
        found = sum(map(len, encoded)) * share
        tokens = found if limit_tokens is None else min(found, limit_tokens)
    # Logits in fp32, their float64 copy and its softmax; and a few vectors of each token.
    config = model.config
    logits = LOGIT_ROWS * config.vocab_size * (4 + 8 + 8)
    wide = 4 * BATCH_TOKENS * (8 * config.hidden_size + 3 * config.intermediate_size)
    return tokens, logits + wide


def plan_eval(
    path: Path,
    documents: Sequence[str],
    *,
    base: Path | None,
    device: str,
    text_key: str,
    context: int | None,
    limit_tokens: int | None,
    choice_positions: int,
    output: str | None,
) -> Plan:
    """One forward pass over the documents, in windows, and over multiple-choice examples.

    choice_positions: those that all examples take.
    """
    model = _Model(path, base, device)
    limit = model.config.max_position_embeddings
    if context is not None and not 2 <= context <= limit:
        raise UsageError(f"--context {context}: this model takes 2 to {limit} tokens")
    tokens, working = _scoring(model, documents, text_key, limit_tokens)
    time = UNKNOWN_INPUT
    if tokens is not None:
        tokens += choice_positions
        rate = matmul_rate(model.device)
        time = Estimate(
            value=2 * model.parameters * tokens / (rate * SHARE_OF_RATE),
            basis=f"{2 * model.parameters * tokens:.3g} operations at {SHARE_OF_RATE} of the"
            f" {rate / 1e9:.0f} GFLOP/s that products reach here now",
        )
    facts = model.facts | ({} if tokens is None else {"tokens_about": round(tokens)})
    return Plan(
        command="eval",
        memory=Estimate(
            value=model.resident_bytes + working,
            basis=f"fp32 weights {model.weight_bytes:,}, the file {model.stored_bytes:,}, a batch"
            f" {round(working):,}, the program {BASE_BYTES:,}",
        ),
        disk=NO_DISK if output is None else Estimate(value=2000, basis="results and manifest"),
        time=time,
        outputs=[] if output is None else [output],
        facts=facts,
    )


def plan_quantize(
    path: str,
    output: str,
    scheme: Scheme,
    *,
    base: Path | None,
    device: str,
    documents: Sequence[str],
    limit_tokens: int | None,
) -> Plan:
    """Disk exact from the tensors' shapes; memory that of the largest tensor."""
    source = resolve_model(path)
    if base is not None and not is_adapter(source):
        raise UsageError(f"--base has no effect: {source} is not an adapter")
    # An adapter is merged first: the file has its base's tensors, from fp32.
    ready = prepare_export(base_of(source, base) if is_adapter(source) else source, scheme)
    check_space(output, ready.num_bytes)
    sizes = [_elements(one.shape) for one in ready.sources]
    largest = round(max(sizes) * WEIGHT_BYTES * TENSOR_COPIES)
    program = ROUNDING_BYTES[source.is_dir()]
    memory: float = program + largest + ready.bytes_before
    basis = f"the largest tensor {largest:,}, pages of the file {ready.bytes_before:,}"
    seconds = sum(sizes) / ROUNDED_PER_S
    timing = f"{ROUNDED_PER_S / 1e6:.0f} M weights a second, measured on a 2-core machine"
    if is_adapter(source):
        memory += WEIGHT_BYTES * sum(sizes)
        basis += ", the merged weights"
    time = Estimate(value=seconds, basis=timing)
    if documents:
        model = _Model(Path(path), base, device)
        tokens, working = _scoring(model, documents, "text", limit_tokens)
        memory = max(memory, model.resident_bytes + working)
        basis += ", the model whole while it is scored"
        time = UNKNOWN_INPUT
        if tokens is not None:
            rate = matmul_rate(model.device) * SHARE_OF_RATE
            seconds += 2 * 2 * model.parameters * tokens / rate
            time = Estimate(value=seconds, basis=f"{timing}, and two scorings")
    return Plan(
        command="quantize",
        memory=Estimate(value=memory, basis=f"{basis}, the program {program:,}"),
        disk=Estimate(value=0, basis="stdout")
        if output == STDIO
        else Estimate(value=ready.num_bytes, basis="tensor shapes and metadata"),
        time=time,
        outputs=[output],
        facts={"parameters": ready.num_parameters, "bytes_before": ready.bytes_before},
    )


def _elements(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
