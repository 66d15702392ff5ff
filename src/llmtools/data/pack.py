"""Documents or token frames to training rows: the whole of `llm pack`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmtools import terminal
from llmtools.data.encode import EncodeSettings, encodable, encode_documents, frame_vocabulary
from llmtools.data.pack_fim import FillInMiddle, FimSettings
from llmtools.data.pack_order import in_order
from llmtools.data.pack_rows import BestFit, BosBestFit, Concat, LongDocuments, Packer
from llmtools.errors import UsageError
from llmtools.formats.claim import remove
from llmtools.formats.document import stream_documents
from llmtools.formats.malformed import NothingLeft
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import atomic_directory
from llmtools.formats.packed import PackedWriter
from llmtools.formats.row_export import RowExport
from llmtools.formats.skips import OnError, Skips, open_skips
from llmtools.formats.stream import InputStream, open_input
from llmtools.formats.tensor_header import is_container
from llmtools.formats.token_forms import DtypeName, TokenForm
from llmtools.formats.tokens import (
    PIPE_FRAME_BYTES,
    Agreement,
    TokenFrame,
    Vocabulary,
    stream_frames,
)
from llmtools.tokenizer.tokenizer import Tokenizer

PackFormat = Literal["packed", "raw", "npy", "megatron"]
Strategy = Literal["concat", "best-fit", "bos-bestfit"]
# 4,096 rows of 2,048, among which there is a fit for nearly every document.
BUFFER_TOKENS = 8 << 20
MEMORY = 512 << 20
# Documents that wait for their turn, in the output's directory until it is complete.
SPOOL = ".waiting"
# A row of more is no training row but a mistake.
MAX_SEQ_LEN = (1 << 24) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSettings:
    """How rows are filled.

    strategy: see pack_rows.py. buffer: tokens of documents that best-fit and bos-bestfit choose
    from. long_docs: what best-fit does with documents longer than a row. format, dtype: packed
    shards, or what row_export.py writes. shuffle: documents in an order that `seed` decides.
    epochs: how often each document is packed. memory: bytes that shuffled or repeated documents may
    take; more than that lies on disk.
    """

    seq_len: int
    strategy: Strategy = "concat"
    long_docs: LongDocuments = "fragment"
    buffer: int = BUFFER_TOKENS
    shuffle: bool = False
    seed: int = 0
    epochs: int = 1
    memory: int = MEMORY
    format: PackFormat = "packed"
    dtype: DtypeName = "auto"
    fim: FimSettings = field(default_factory=FimSettings)
    encode: EncodeSettings = field(default_factory=EncodeSettings)


def check_settings(settings: PackSettings) -> None:
    """Raises UsageError for a row, a buffer or a form that cannot be."""
    if settings.format == "packed" and settings.dtype != "auto":
        raise UsageError(f"--dtype {settings.dtype} has no effect with --format packed")
    if settings.format != "packed":
        TokenForm(name=settings.format, dtype=settings.dtype)
    if not 1 <= settings.seq_len <= MAX_SEQ_LEN:
        raise UsageError(f"--seq-len {settings.seq_len}: it must be 1 to {MAX_SEQ_LEN:,}")
    for name, rate in (("rate", settings.fim.rate), ("spm-rate", settings.fim.spm_rate)):
        if not 0 <= rate <= 1:
            raise UsageError(f"--fim-{name} {rate}: it must be 0 to 1")
    if settings.epochs < 1:
        raise UsageError(f"--epochs {settings.epochs}: it must be 1 or more")
    if not 0 <= settings.seed < 1 << 64:
        raise UsageError(f"--seed {settings.seed}: it must be 0 to 2^64 - 1")
    width = settings.seq_len + 1
    if settings.strategy != "concat" and settings.buffer < width:
        raise UsageError(
            f"--buffer {settings.buffer}: it counts tokens and must hold a row, which has {width:,}"
        )


def pack(
    inputs: list[str],
    output: str,
    settings: PackSettings,
    *,
    tokenizer: Tokenizer | None = None,
    rejects: str | None = None,
    on_error: OnError = "fail",
    force: bool = False,
) -> dict[str, Any]:
    """Write a directory of packed shards; returns the counts.

    Each input is documents or token frames, told apart by content. Raises UsageError for documents
    without a tokenizer, InputError for bad input, for tokens of different tokenizers (naming both)
    and for input without any token.
    """
    check_settings(settings)
    fim = open_fim(settings, tokenizer)
    recorder = Recorder("pack", asdict(settings))
    if tokenizer is not None:
        recorder.read_named(tokenizer.where)
    counts = {"documents": 0, "tokens": 0}
    packer: Packer | None = None
    writer: PackedWriter | RowExport | None = None
    with (
        open_skips(output, rejects, on_error, force=force) as skips,
        atomic_directory(output, force=force) as directory,
    ):
        with terminal.progress("pack", unit="tok") as bar:
            frames = _frames(inputs, tokenizer, settings.encode, fim, recorder, skips)
            spool = directory / SPOOL
            for frame in in_order(
                _counted(frames, counts, bar),
                spool,
                seed=settings.seed if settings.shuffle else None,
                epochs=settings.epochs,
                memory=settings.memory,
            ):
                if packer is None or writer is None:
                    packer = open_packer(settings, frame.vocabulary)
                    writer = _open_writer(settings, directory, frame.vocabulary)
                for block in packer.add(frame):
                    writer.add_block(block)
            remove(spool)
        if packer is None or writer is None or not counts["tokens"]:
            raise NothingLeft(f"{', '.join(inputs)}: no tokens in the input{skips.explain()}")
        for block in packer.finish():
            writer.add_block(block)
        writer.close()
        if settings.format == "megatron" and packer.padding:
            recorder.warn(
                f"pack: Megatron's files have no loss mask, so {packer.padding:,} tokens of padding"
                " count as targets; take --strategy concat, or another format"
            )
        totals = _totals(settings, counts, packer, writer)
        if fim is not None:
            totals["fim_documents"] = fim.documents
        recorder.count(**totals, **asdict(writer.vocabulary))
        skips.record(recorder)
        recorder.wrote_tree(directory)
        recorder.write_beside(directory)
    return totals | {"documents_skipped": skips.count}


def _open_writer(
    settings: PackSettings, directory: Path, vocabulary: Vocabulary
) -> PackedWriter | RowExport:
    if settings.format == "packed":
        return PackedWriter(directory, seq_len=settings.seq_len, vocabulary=vocabulary)
    form = TokenForm(name=settings.format, dtype=settings.dtype)
    return RowExport(directory, seq_len=settings.seq_len, vocabulary=vocabulary, form=form)


def _counted(
    frames: Iterable[TokenFrame], counts: dict[str, int], bar: terminal.Progress
) -> Iterator[TokenFrame]:
    for frame in frames:
        counts["documents"] += frame.num_documents
        counts["tokens"] += len(frame.tokens)
        bar.update(len(frame.tokens))
        yield frame


def _totals(
    settings: PackSettings,
    counts: dict[str, int],
    packer: Packer,
    writer: PackedWriter | RowExport,
) -> dict[str, Any]:
    """What became of the tokens: rows hold epochs x tokens - cropped + padding."""
    in_rows = writer.num_rows * (settings.seq_len + 1)
    return {
        "rows": writer.num_rows,
        **counts,
        "epochs": settings.epochs,
        "padding": packer.padding,
        "cropped": packer.cropped,
        "cuts": packer.cuts,
        "utilisation": (in_rows - packer.padding) / in_rows,
        "shards": writer.num_shards,
        "seq_len": settings.seq_len,
    }


def open_fim(settings: PackSettings, tokenizer: Tokenizer | None) -> FillInMiddle | None:
    """What cuts documents into prefix, middle and suffix, None where nothing does.

    Raises UsageError without a tokenizer, which names the tokens, and where it has none for it.
    """
    if not settings.fim.rate:
        return None
    if tokenizer is None:
        raise UsageError("--fim-rate needs the ids of its tokens; name the tokenizer with -t")
    return FillInMiddle(settings.fim, tokenizer, settings.seed)


def open_packer(settings: PackSettings, vocabulary: Vocabulary) -> Packer:
    """The packer of a strategy; raises UsageError where it needs a BOS that is not there."""
    width, pad_id = settings.seq_len + 1, vocabulary.eos or 0
    if settings.strategy == "best-fit":
        return BestFit(width, pad_id, settings.buffer, settings.long_docs)
    if settings.strategy == "bos-bestfit":
        if vocabulary.bos is None:
            raise UsageError(
                "--strategy bos-bestfit begins each row with BOS, and these documents have none;"
                " tokenize them with --bos"
            )
        return BosBestFit(width, pad_id, settings.buffer)
    return Concat(width, pad_id)


def _frames(
    inputs: list[str],
    tokenizer: Tokenizer | None,
    settings: EncodeSettings,
    fim: FillInMiddle | None,
    recorder: Recorder,
    skips: Skips,
) -> Iterator[TokenFrame]:
    """The frames of all inputs, documents among them encoded on the way."""
    agreement = Agreement()
    if tokenizer is not None:
        agreement.check(frame_vocabulary(tokenizer, settings), tokenizer.where)
    for path in inputs:
        with open_input(path) as stream:
            head = stream.peek(9)
            # An input without a byte is of either kind.
            if is_container(head):
                for frame in stream_frames(stream):
                    agreement.check(frame.vocabulary, stream.stream_name)
                    yield frame if fim is None else fim.change_frame(frame)
            elif head:
                yield from _encoded(stream, tokenizer, settings, fim, agreement, skips)
            recorder.read(stream)


def _encoded(
    stream: InputStream,
    tokenizer: Tokenizer | None,
    settings: EncodeSettings,
    fim: FillInMiddle | None,
    agreement: Agreement,
    skips: Skips,
) -> Iterator[TokenFrame]:
    if tokenizer is None:
        raise UsageError(
            f"{stream.stream_name} holds documents, not token frames; name a tokenizer with -t"
        )
    documents = stream_documents(
        stream, text_key=settings.text_key, id_key=settings.id_key, skips=skips
    )
    documents = encodable(documents, tokenizer, skips)
    frames = (
        encode_documents(documents, tokenizer, settings, PIPE_FRAME_BYTES)
        if fim is None
        else fim.encode(documents, settings, PIPE_FRAME_BYTES)
    )
    for frame in frames:
        agreement.check(frame.vocabulary, stream.stream_name)
        yield frame
