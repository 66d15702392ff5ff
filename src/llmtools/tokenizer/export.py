"""A byte-level tokenizer in others' files: tiktoken's ranks, a GGUF without weights."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path

from llmtools.errors import UsageError
from llmtools.formats.gguf_vocab import vocabulary_metadata
from llmtools.formats.gguf_writer import write_gguf
from llmtools.formats.output import OutputStream, open_output
from llmtools.tokenizer.bytes_chars import token_bytes
from llmtools.tokenizer.tokenizer import Tokenizer


def tiktoken_ranks(tokenizer: Tokenizer) -> bytes:
    """tiktoken's lines of base64 and rank; ranks are the ids, special tokens have none.

    raises: UsageError for a tokenizer that is not byte-level BPE.
    """
    fields = json.loads(tokenizer.to_json())
    if fields["model"]["type"] != "BPE" or '"ByteLevel"' not in json.dumps(fields["decoder"]):
        raise UsageError(f"{tokenizer.where}: tiktoken's ranks hold byte-level BPE only")
    lines = []
    for token, id in sorted(fields["model"]["vocab"].items(), key=lambda item: item[1]):
        data = token_bytes(token)
        if token not in tokenizer.special_tokens and data is not None:
            lines.append(base64.b64encode(data) + b" %d\n" % id)
    return b"".join(lines)


def write_tiktoken(tokenizer: Tokenizer, path: str, *, force: bool) -> OutputStream:
    """Write a rank file; returns its stream for manifests."""
    with open_output(path, force=force, compress=False) as out:
        out.write(tiktoken_ranks(tokenizer))
    return out


def write_gguf_vocabulary(tokenizer: Tokenizer, path: str, *, force: bool) -> OutputStream:
    """Write a GGUF file of the vocabulary alone, as llama.cpp's own vocabulary files are."""
    with tempfile.TemporaryDirectory(prefix="llmtools-") as folder:
        tokenizer.save(Path(folder))
        metadata = vocabulary_metadata(Path(folder), {"vocab_size": tokenizer.vocab_size})
    about = {"general.architecture": "llama", "general.type": "vocab"}
    return write_gguf(path, about | metadata, [], force=force)
