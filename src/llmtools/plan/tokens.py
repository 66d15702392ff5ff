"""Plans of tokenize, detokenize and pack: the checks of a real run, then memory, disk and time."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from llmtools.data.encode import EncodeSettings, frame_vocabulary
from llmtools.errors import UsageError
from llmtools.formats.input_names import STDIO, bare_suffix
from llmtools.formats.packed import SHARD_BYTES
from llmtools.formats.skips import OnError, check_rejects
from llmtools.formats.token_files import FILE_FRAME_BYTES
from llmtools.formats.token_forms import TokenForm
from llmtools.formats.tokens import Agreement
from llmtools.plan.costs import (
    COSTS,
    MB,
    check_files,
    disk_of,
    facts_of,
    time_of,
    with_reader,
    with_rejects,
)
from llmtools.plan.estimate import UNKNOWN_INPUT, Estimate, Plan
from llmtools.plan.inputs import (
    Frames,
    Sample,
    first_vocabulary,
    holds_frames,
    is_foreseen,
    measure_frames,
    measure_inputs,
    sample_documents,
)
from llmtools.tokenizer.tokenizer import Tokenizer

# A batch of a million characters with all that the tokenizer says and remembers of it; reached only
# after so many bytes of input.
ENCODE_BATCH = 220 * MB
ENCODE_GROWTH = 10 * MB
# The rows of a shard, held until it is full, and the frame that the last of them came from.
SHARD_COPIES = 1.3
# Copies of the documents that best fits are found among: frames, joined, and as rows.
BUFFER_COPIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    """How many tokens and documents some inputs hold, and whether that is exact."""

    tokens: float
    documents: float
    basis: str


def _count_tokens(
    sample: Sample, content: int, basis: str, tokenizer: Tokenizer, settings: EncodeSettings
) -> _Tokens:
    """From the tokens of the sample, encoded now."""
    encoded = tokenizer.encode_batch(sample.texts, parse_special=settings.parse_special)
    vocabulary = frame_vocabulary(tokenizer, settings)
    around = sum(mark is not None for mark in (vocabulary.bos, vocabulary.eos))
    in_sample = sum(map(len, encoded)) + around * len(encoded)
    documents = sample.documents_in(content)
    tokens = in_sample * documents / max(len(sample.raw), 1)
    return _Tokens(
        tokens=tokens,
        documents=documents,
        basis=f"{basis}, tokens of the first {len(sample.raw):,} documents",
    )


def plan_tokenize(
    names: list[str],
    output: str,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    *,
    form: TokenForm,
    rejects: str | None,
    on_error: OnError,
    force: bool,
) -> Plan:
    """Disk from the tokens of a sample; memory is that of a batch and of a frame."""
    check_rejects(output, rejects, on_error, force=force)
    frame_vocabulary(tokenizer, settings)
    item = form.dtype_for(tokenizer.vocab_size).itemsize
    if form.name == "jsonl":
        item = len(str(tokenizer.vocab_size)) + 1
    sample = sample_documents(
        names, text_key=settings.text_key, id_key=settings.id_key, on_error=on_error
    )
    sizes = measure_inputs(names)
    cost = COSTS["tokenize"]
    memory = Estimate(value=cost.memory + ENCODE_BATCH, basis="one batch and one frame, measured")
    disk, count = UNKNOWN_INPUT, None
    if sizes.content is not None:
        count = _count_tokens(sample, sizes.content, sizes.basis, tokenizer, settings)
        disk = Estimate(value=item * count.tokens + 16 * count.documents, basis=count.basis)
        is_directory = (
            form.name == "frames" and output != STDIO and bare_suffix(output) != ".safetensors"
        )
        frame = min(item * count.tokens, FILE_FRAME_BYTES) if is_directory else 0
        batch = ENCODE_BATCH * min(1.0, sizes.content / ENCODE_GROWTH)
        memory = Estimate(
            value=cost.memory + batch + 4 * frame, basis="one batch and one frame, measured"
        )
    return Plan(
        command="tokenize",
        memory=with_reader(memory, sizes),
        disk=disk_of(disk, output),
        time=time_of("tokenize", sizes.content),
        outputs=with_rejects(output, rejects),
        facts=facts_of(
            names, sizes.content, tokens_about=None if count is None else round(count.tokens)
        ),
    )


def plan_detokenize(names: list[str], output: str, tokenizer: Tokenizer, *, force: bool) -> Plan:
    """Exact about tokens, which headers count; their text is taken as four bytes each."""
    from llmtools.data.decode import check_tokenizer

    check_files([output], force=force)
    for name in filter(os.path.isfile, names):
        check_tokenizer(first_vocabulary(name), tokenizer)
    found = measure_frames(names)
    sizes = measure_inputs(names)
    disk = memory = UNKNOWN_INPUT
    if found is not None:
        disk = Estimate(
            value=4 * found.tokens + 40 * found.documents, basis="token headers, 4 bytes a token"
        )
        peak = COSTS["detokenize"].memory + 3 * found.largest
        memory = Estimate(value=peak, basis="the largest frame")
    return Plan(
        command="detokenize",
        memory=memory,
        disk=disk_of(disk, output),
        time=time_of("detokenize", sizes.content),
        outputs=[output],
        facts=facts_of(names, sizes.content, tokens=None if found is None else found.tokens),
    )


def plan_pack(
    names: list[str],
    output: str,
    settings: Any,
    *,
    tokenizer: Tokenizer | None,
    rejects: str | None,
    on_error: OnError,
    force: bool,
) -> Plan:
    """Rows and their bytes: exact from the headers of token frames, from a sample of documents."""
    check_rejects(output, rejects, on_error, force=force)
    encode = settings.encode
    agreement = Agreement()
    if tokenizer is not None:
        agreement.check(frame_vocabulary(tokenizer, encode), tokenizer.where)
    frames = [name for name in names if holds_frames(name)]
    found = measure_frames(frames) if frames else None
    for name in frames:
        agreement.check(first_vocabulary(name), name)
    documents = [name for name in names if is_foreseen(name) and name not in frames]
    if documents and tokenizer is None:
        raise UsageError(
            f"{documents[0]} holds documents, not token frames; name a tokenizer with -t"
        )
    sizes = measure_inputs(names)
    is_known = sizes.content is not None and (not frames or found is not None)
    count = None
    if is_known:
        count = _tokens_to_pack(found, documents, tokenizer, encode, on_error)
    vocabulary = agreement.vocabulary
    if count is None or vocabulary is None:
        return Plan(
            command="pack",
            memory=UNKNOWN_INPUT,
            disk=UNKNOWN_INPUT,
            time=UNKNOWN_INPUT,
            outputs=with_rejects(output, rejects),
            facts=facts_of(names, sizes.content),
        )
    rows = math.ceil(count.tokens / (settings.seq_len + 1))
    disk = packed_bytes(
        rows=rows,
        seq_len=settings.seq_len,
        item=vocabulary.dtype.itemsize,
        segments=count.documents + rows,
        has_masks=settings.strategy == "best-fit" or bool(found and found.has_masks),
    )
    memory = COSTS["pack"].memory + _rows_memory(settings, count.tokens, vocabulary.dtype.itemsize)
    memory += ENCODE_BATCH * min(1.0, (measure_inputs(documents).stored or 0) / ENCODE_GROWTH)
    command = "tokenize" if documents else "pack"
    return Plan(
        command="pack",
        memory=Estimate(value=memory, basis="the rows of one shard, and one batch of documents"),
        disk=Estimate(value=disk, basis=count.basis),
        time=time_of(command, sizes.content),
        outputs=with_rejects(output, rejects),
        facts=facts_of(names, sizes.content, tokens=round(count.tokens), rows=rows),
    )


def _rows_memory(settings: Any, tokens: float, item: int) -> float:
    memory = SHARD_COPIES * min(tokens * item, SHARD_BYTES)
    if settings.strategy != "concat":
        memory += BUFFER_COPIES * item * min(tokens, settings.buffer)
    return memory


def packed_bytes(*, rows: int, seq_len: int, item: int, segments: float, has_masks: bool) -> float:
    """Bytes of packed shards; the shard with padding has a loss mask, one byte a token."""
    width = seq_len + 1
    in_last = rows % max(1, SHARD_BYTES // (width * item)) or rows
    masked = rows if has_masks else in_last
    return rows * (width * item + 8) + masked * width + 12 * segments


def _tokens_to_pack(
    found: Frames | None,
    documents: list[str],
    tokenizer: Tokenizer | None,
    settings: EncodeSettings,
    on_error: OnError,
) -> _Tokens:
    """The tokens of frames, by their headers, and of documents, by a sample of them."""
    counted = _Tokens(tokens=0, documents=0, basis="")
    if documents:
        assert tokenizer is not None
        sample = sample_documents(
            documents, text_key=settings.text_key, id_key=settings.id_key, on_error=on_error
        )
        sizes = measure_inputs(documents)
        counted = _count_tokens(sample, sizes.content or 0, sizes.basis, tokenizer, settings)
    if found is None:
        return counted
    basis = "token headers" + (f"; {counted.basis}" if documents else "")
    return _Tokens(
        tokens=counted.tokens + found.tokens,
        documents=counted.documents + found.documents,
        basis=basis,
    )
