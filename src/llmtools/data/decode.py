"""Token frames back to documents: the whole of `llm detokenize`."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmtools import terminal
from llmtools.errors import InputError
from llmtools.formats.json_edit import encode
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import open_output
from llmtools.formats.tokens import Vocabulary, read_frames
from llmtools.tokenizer.tokenizer import Tokenizer


def detokenize(
    inputs: list[str], output: str, tokenizer: Tokenizer, *, force: bool = False
) -> dict[str, Any]:
    """Write the documents of some frames; returns the counts.

    Frames keep a hash of a document's id, so the id is that hash in hex. The BOS and EOS that
    `tokenize` put around a document are taken off. Raises InputError for malformed frames, and for
    frames of another tokenizer, naming both.
    """
    recorder = Recorder("detokenize", {"tokenizer": tokenizer.identity})
    recorder.read_named(tokenizer.where)
    counts = {"documents": 0, "tokens": 0}
    with (
        open_output(output, force=force) as out,
        terminal.progress("detokenize", unit="tok") as bar,
    ):
        for frame in read_frames(inputs, recorder.read):
            check_tokenizer(frame.vocabulary, tokenizer)
            for document_id, ids, _ in frame.documents():
                text = tokenizer.decode(_content(ids, frame.vocabulary).tolist())
                out.write(encode({"id": f"{document_id:016x}", "text": text}) + b"\n")
            counts["documents"] += frame.num_documents
            counts["tokens"] += len(frame.tokens)
            bar.update(len(frame.tokens))
    recorder.count(**counts)
    recorder.wrote(out)
    recorder.write_beside(output)
    return counts


def check_tokenizer(vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    """Raises InputError when tokens were not made by this tokenizer, naming both."""
    if vocabulary.tokenizer != tokenizer.identity:
        raise InputError(
            f"these tokens were made by tokenizer {vocabulary.tokenizer}"
            f" ({vocabulary.vocab_size} ids), but {tokenizer.where} is {tokenizer.identity}"
            f" ({tokenizer.vocab_size} ids); name the tokenizer that made them with -t"
        )


def _content(ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """A document's tokens without the BOS and EOS around them."""
    start, stop = 0, len(ids)
    if stop and vocabulary.bos is not None and ids[0] == vocabulary.bos:
        start = 1
    if stop > start and vocabulary.eos is not None and ids[-1] == vocabulary.eos:
        stop -= 1
    return ids[start:stop]
