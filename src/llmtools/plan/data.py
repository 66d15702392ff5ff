"""Plans of the data commands: the checks of a real run, then memory, disk and time.

Throughput and memory were measured with the prose corpus (31 MB of JSON lines, 11,580 documents) on
a shared 2-core Zen 4 machine; see docs/log.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtools.data.encode import EncodeSettings, frame_vocabulary
from llmtools.data.extract import (
    ExtractSettings,
    Passed,
    check_listed,
    expand_arguments,
    find_files,
)
from llmtools.errors import InputError, UsageError
from llmtools.formats.packed import SHARD_BYTES
from llmtools.formats.skips import OnError, check_rejects
from llmtools.formats.stream import STDIO, bare_suffix, check_outputs
from llmtools.formats.token_files import FILE_FRAME_BYTES
from llmtools.formats.token_forms import TokenForm
from llmtools.formats.tokens import Agreement
from llmtools.formats.vectors import open_vectors
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
from llmtools.tokenizer.train import TrainSettings

MB = 1e6


@dataclass(frozen=True, slots=True)
class Cost:
    """What a data command takes: seconds to start, input bytes a second, bytes of memory."""

    start_s: float
    rate: float
    memory: float


# start-up, MB/s of decompressed input, MB at its peak on batches of full size.
COSTS = {
    "extract": Cost(0.2, 100 * MB, 34 * MB),
    "filter": Cost(0.5, 20 * MB, 225 * MB),
    "dedup": Cost(0.5, 60 * MB, 180 * MB),
    "tokenizer train": Cost(0.9, 18 * MB, 160 * MB),
    "score": Cost(0.5, 15 * MB, 120 * MB),
    "scorer train": Cost(0.6, 2.5 * MB, 110 * MB),
    "tokenize": Cost(0.3, 5 * MB, 75 * MB),
    "detokenize": Cost(0.3, 11 * MB, 66 * MB),
    "pack": Cost(0.3, 45 * MB, 55 * MB),
}
# Bytes a document, and of methods that cut inside texts, for each byte of input; both rounded up
# from what prose, code and text in 46 languages took.
DEDUP_METHODS = {"exact": 64, "simhash": 16, "semantic": 32}
DEDUP_TEXT = {"line": 2, "paragraph": 1, "sentence": 2, "substring": 9}
MEASURED = "throughput measured on a 2-core machine"
# A batch of a million characters with all that the tokenizer says and remembers of it; reached only
# after so many bytes of input.
ENCODE_BATCH = 220 * MB
ENCODE_GROWTH = 10 * MB
# Of each document dedup keeps, beside its bucket keys: digest, length, parent, and room to sort.
DEDUP_DOCUMENT = 280
DEDUP_ID = 64
# Bytes for each byte of input, of prose, code and text in 46 languages.
TOKENIZER_GROWTH = 4
# Bytes for each byte of input and each order.
NGRAM_MEMORY = 10.0
NGRAM_DISK = 2.0
# The record, the text twice, its words and the rows of its n-grams.
CLASSIFIER_MEMORY = 6.0
# The rows of a shard, held until it is full, and the frame that the last of them came from.
SHARD_COPIES = 1.3
# Copies of the documents that best fits are found among: frames, joined, and as rows; the kernels.
BUFFER_COPIES = 5
BEST_FIT_MEMORY = 70 * MB


def _time(command: str, content: int | None) -> Estimate:
    if content is None:
        return UNKNOWN_INPUT
    cost = COSTS[command]
    return Estimate(value=cost.start_s + content / cost.rate, basis=f"input size, {MEASURED}")


def _facts(names: Sequence[str], content: int | None, **more: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"inputs": len(names)}
    if content is not None:
        facts["input_bytes"] = content
    return facts | {key: value for key, value in more.items() if value is not None}


def _outputs(output: str, rejects: str | None) -> list[str]:
    return [output] if rejects is None else [output, rejects]


def _check_files(paths: list[str], *, force: bool) -> None:
    """Refuse outputs that a run would refuse, directories where it writes files among them."""
    check_outputs(paths, force=force)
    for path in paths:
        if os.path.isdir(path):
            raise UsageError(f"{path} is a directory; name a file")


def plan_extract(
    paths: list[str],
    output: str,
    settings: ExtractSettings,
    *,
    files: list[str] | None = None,
    rejects: str | None,
    force: bool,
) -> Plan:
    """Walks the tree and asks for the sizes of files; reads none."""
    arguments = expand_arguments(paths)
    check_listed(arguments, files, settings)
    _check_files(_outputs(output, rejects), force=force)
    passed = Passed()
    sizes = []
    for argument in arguments:
        for file, _ in find_files(argument, settings, passed, files):
            size = os.stat(file).st_size if os.path.isfile(file) else 0
            if size <= settings.max_bytes:
                sizes.append(size)
    if not sizes:
        raise InputError(f"{', '.join(paths)}: no file to read here")
    total = sum(sizes)
    cost = COSTS["extract"]
    return Plan(
        command="extract",
        # A file is in memory as bytes, text, JSON and block.
        memory=Estimate(value=cost.memory + 8 * max(sizes), basis="the largest file"),
        disk=_disk(
            Estimate(value=1.05 * total, basis="file sizes; at most, if all are text"), output
        ),
        time=_time("extract", total),
        outputs=_outputs(output, rejects),
        facts={"files": len(sizes), "input_bytes": total, "largest_file": max(sizes)},
    )


def _disk(estimate: Estimate, output: str) -> Estimate:
    """Nothing where the output is a pipe."""
    return Estimate(value=0, basis="stdout") if output == STDIO else estimate


def _plan_documents(
    command: str,
    names: Sequence[str],
    outputs: list[str],
    sample: Sample,
    memory_of: Any,
) -> Plan:
    """The plan of a command whose output is documents, at most all that came in."""
    sizes = measure_inputs(names)
    documents = None
    disk = memory = UNKNOWN_INPUT
    if sizes.content is not None:
        documents = round(sample.documents_in(sizes.content)) if sample.raw else 0
        share = sample.stored_share(outputs[0])
        basis = f"at most, if every document stays; {sizes.basis}"
        disk = Estimate(value=share * sizes.content, basis=basis)
        memory = memory_of(documents, sizes.basis)
    elif command in ("filter", "score"):
        memory = memory_of(0, "")
    return Plan(
        command=command,
        memory=memory,
        disk=_disk(disk, outputs[0]),
        time=_time(command, sizes.content),
        outputs=outputs,
        facts=_facts(names, sizes.content, documents_about=documents),
    )


def plan_filter(
    names: list[str],
    output: str,
    *,
    rejects: str | None,
    on_error: OnError,
    text_key: str,
    id_key: str,
    force: bool,
) -> Plan:
    """Memory is that of one batch, whatever the input."""
    outputs = _outputs(output, rejects)
    _check_files(outputs, force=force)
    sample = sample_documents(names, text_key=text_key, id_key=id_key, on_error=on_error)
    peak = Estimate(value=COSTS["filter"].memory, basis="one batch of documents, measured")
    return _plan_documents("filter", names, outputs, sample, lambda documents, basis: peak)


def plan_dedup(
    names: list[str],
    output: str,
    *,
    method: str = "minhash",
    num_buckets: int,
    keeps_ids: bool,
    limit: int | None = None,
    rejects: str | None,
    on_error: OnError,
    text_key: str,
    id_key: str,
    force: bool,
) -> Plan:
    """Memory grows with the number of documents, or with the text where methods cut inside it.

    limit: bytes that --memory allows.
    """
    outputs = _outputs(output, rejects)
    _check_files(outputs, force=force)
    sample = sample_documents(names, text_key=text_key, id_key=id_key, on_error=on_error)
    each = DEDUP_METHODS.get(method, 8 * num_buckets) + DEDUP_DOCUMENT
    if keeps_ids and sample.ids:
        each += DEDUP_ID + sum(map(len, sample.ids)) // len(sample.ids)

    def memory(documents: int, basis: str) -> Estimate:
        value = COSTS["dedup"].memory + documents * each
        told = f"{each} bytes a document; {basis}"
        if method in DEDUP_TEXT:
            share = DEDUP_TEXT[method]
            value = COSTS["dedup"].memory + share * (measure_inputs(names).content or 0)
            told = f"{share} bytes for each byte of input; {basis}"
        if limit is not None and value > limit:
            return Estimate(value=limit, basis=f"--memory; keys beyond it go to disk; {told}")
        return Estimate(value=value, basis=told)

    return _plan_documents("dedup", names, outputs, sample, memory)


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
    _check_files(outputs, force=force)
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
        time=_time("tokenizer train", sizes.content),
        outputs=outputs,
        facts=_facts(names, sizes.content, vocab_size=settings.vocab_size),
    )


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
    check_rejects(output, rejects, on_error, force=force)
    _check_files(_outputs(output, rejects), force=force)
    sample_documents(names, text_key=text_key, on_error=on_error)
    sizes = measure_inputs(names)
    memory = disk = UNKNOWN_INPUT
    if sizes.content is not None:
        value = COSTS["scorer train"].memory + NGRAM_MEMORY * order * sizes.content
        each = f"for each byte of input and order, measured; {sizes.basis}"
        memory = Estimate(value=value, basis=f"at most, {NGRAM_MEMORY:g} bytes {each}")
        stored = NGRAM_DISK * order * sizes.content
        disk = Estimate(value=stored, basis=f"at most, {NGRAM_DISK:g} bytes {each}")
    return Plan(
        command="scorer train",
        memory=memory,
        disk=disk,
        time=_time("scorer train", sizes.content),
        outputs=_outputs(output, rejects),
        facts=_facts(names, sizes.content, order=order),
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
    check_rejects(output, rejects, on_error, force=force)
    _check_files(_outputs(output, rejects), force=force)
    sample_documents(names, text_key=text_key, on_error=on_error)
    sizes = measure_inputs(names)
    weights = 4 * num_weights
    memory = UNKNOWN_INPUT
    if sizes.content is not None:
        value = COSTS["score"].memory + 2 * weights + CLASSIFIER_MEMORY * sizes.content
        basis = f"{CLASSIFIER_MEMORY:g} bytes for each byte of input, and the weights twice"
        memory = Estimate(value=value, basis=f"at most, {basis}; {sizes.basis}")
    return Plan(
        command="scorer train",
        memory=memory,
        disk=Estimate(value=weights, basis="at most, four bytes a weight"),
        time=_time("scorer train", sizes.content),
        outputs=_outputs(output, rejects),
        facts=_facts(names, sizes.content, weights=num_weights),
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
    check_rejects(output, rejects, on_error, force=force)
    _check_files(_outputs(output, rejects), force=force)
    sample_documents(names, text_key=text_key, on_error=on_error)
    sizes = measure_inputs(names)
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
        outputs=_outputs(output, rejects),
        facts=_facts(names, sizes.content, dim=dim),
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
    outputs = _outputs(output, rejects)
    _check_files(outputs, force=force)
    sample = sample_documents(names, text_key=text_key, on_error=on_error)
    held = sum(os.path.getsize(path) for path in scorers if os.path.isfile(path))
    basis = "one batch of documents, measured, and the scorers' files"
    peak = Estimate(value=COSTS["score"].memory + held, basis=basis)
    return _plan_documents("score", names, outputs, sample, lambda documents, basis: peak)


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
        memory=memory,
        disk=_disk(disk, output),
        time=_time("tokenize", sizes.content),
        outputs=_outputs(output, rejects),
        facts=_facts(
            names, sizes.content, tokens_about=None if count is None else round(count.tokens)
        ),
    )


def plan_detokenize(names: list[str], output: str, tokenizer: Tokenizer, *, force: bool) -> Plan:
    """Exact about tokens, which headers count; their text is taken as four bytes each."""
    from llmtools.data.decode import check_tokenizer

    _check_files([output], force=force)
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
        disk=_disk(disk, output),
        time=_time("detokenize", sizes.content),
        outputs=[output],
        facts=_facts(names, sizes.content, tokens=None if found is None else found.tokens),
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
            outputs=_outputs(output, rejects),
            facts=_facts(names, sizes.content),
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
        time=_time(command, sizes.content),
        outputs=_outputs(output, rejects),
        facts=_facts(names, sizes.content, tokens=round(count.tokens), rows=rows),
    )


def _rows_memory(settings: Any, tokens: float, item: int) -> float:
    memory = SHARD_COPIES * min(tokens * item, SHARD_BYTES)
    if settings.strategy != "concat":
        memory += BEST_FIT_MEMORY + BUFFER_COPIES * item * min(tokens, settings.buffer)
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
