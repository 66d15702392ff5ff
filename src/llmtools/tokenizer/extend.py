"""New tokens for a tokenizer that is there already, learned from documents of a new kind.

The documents' words are encoded as before, and merges are learned on from there. They are appended
behind the old ones, so old tokens keep their ids, all old merges of a word still come first, and a
word that holds no new pair is encoded as it was. No new merge reads as a token of the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend

from llmtools.errors import InputError, UsageError
from llmtools.formats.malformed import NothingLeft
from llmtools.tokenizer import split, word_kernel
from llmtools.tokenizer.bpe_train import Symbols, learn_merges
from llmtools.tokenizer.bytes_chars import token_bytes, token_text
from llmtools.tokenizer.tokenizer import Tokenizer
from llmtools.tokenizer.train import LEAST_MEMORY
from llmtools.tokenizer.word_count import WordCounter, WordTable


@dataclass(frozen=True, slots=True)
class Extension:
    """A longer tokenizer. pieces: the old ids that each new token is made of, first new id first.

    table: the words that were learned from.
    """

    tokenizer: Tokenizer
    pieces: list[list[int]]
    table: WordTable


def extend_tokenizer(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    num_new: int,
    *,
    min_frequency: int = 0,
    memory_bytes: int = 2 << 30,
    on_tokens: Callable[[int], None] = lambda num: None,
) -> Extension:
    """At most `num_new` further tokens; fewer where the texts hold too few pairs.

    raises: UsageError for numbers that cannot be, InputError for a tokenizer that is not byte-level
    BPE, or for texts without a word or a new pair.
    """
    fields = check_extension(tokenizer, num_new, memory_bytes)
    model = fields["model"]
    # Added tokens that stand behind the model's own would be numbered anew behind the new ones.
    model["vocab"] |= {token["content"]: token["id"] for token in fields["added_tokens"]}
    backend = Backend.from_str(tokenizer.to_json())
    table, spell = _count(backend, texts, memory_bytes)
    if len(table.counts) == 0:
        raise NothingLeft("no text to extend a tokenizer on: every document is empty")
    symbols = _encoded(backend, table, spell)
    texts_by_id = _texts_by_id(tokenizer.vocab_size, model["vocab"])
    learned = learn_merges(
        symbols,
        texts_by_id,
        tokenizer.vocab_size + num_new,
        min_frequency=min_frequency,
        keeps_tokens=True,
        on_tokens=on_tokens,
    )
    if not learned.merges:
        raise NothingLeft(
            f"no new token: no pair of tokens occurs {max(1, min_frequency)} times in the documents"
        )
    names = {id: name for name, id in model["vocab"].items()}
    pieces: dict[int, list[int]] = {}
    for new, (left, right) in enumerate(learned.merges, tokenizer.vocab_size):
        names[new] = token_text(learned.tokens[new])
        model["vocab"][names[new]] = new
        model["merges"].append([names[left], names[right]])
        pieces[new] = pieces.get(left, [left]) + pieces.get(right, [right])
    longer = tokenizer.with_content(json.dumps(fields, ensure_ascii=False))
    return Extension(longer, list(pieces.values()), table)


def check_extension(tokenizer: Tokenizer, num_new: int, memory_bytes: int) -> dict[str, Any]:
    """The parsed tokenizer.json of a tokenizer that can be extended; raises as extend_tokenizer."""
    if num_new < 1:
        raise UsageError(f"--add {num_new}: at least one token")
    if memory_bytes < LEAST_MEMORY:
        raise UsageError(f"--memory: {memory_bytes:,} bytes are too little; at least 4M")
    fields: dict[str, Any] = json.loads(tokenizer.to_json())
    model = fields["model"]
    if model["type"] != "BPE" or '"ByteLevel"' not in json.dumps(fields["pre_tokenizer"]):
        raise InputError(
            f"{tokenizer.where}: only a byte-level BPE vocabulary can be extended; this is"
            f" {model['type']}{' of characters' if model['type'] == 'BPE' else ''}"
        )
    named = model["vocab"].keys() | {token["content"] for token in fields["added_tokens"]}
    if len(named) < tokenizer.vocab_size:
        raise InputError(
            f"{tokenizer.where}: {tokenizer.vocab_size - len(named)} ids below"
            f" {tokenizer.vocab_size} have no token, and new tokens can stand behind no hole"
        )
    return fields


def _count(
    backend: Backend, texts: Iterable[str], memory_bytes: int
) -> tuple[WordTable, Callable[[bytes], str]]:
    """The words of the texts, and how one of them is spelled in the vocabulary."""
    own = json.loads(backend.to_str())["pre_tokenizer"]
    rule = next((r for r in word_kernel.SCANNERS if _as_json(split.pre_tokenizer(r)) == own), None)
    normalizer = backend.normalizer

    def normalized() -> Iterator[str]:
        for text in texts:
            yield text if normalizer is None else normalizer.normalize_str(text)

    def words() -> Iterator[str]:
        for text in normalized():
            yield from (word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text))

    scanner = word_kernel.WHOLE if rule is None else word_kernel.SCANNERS[rule]
    with WordCounter(scanner, memory_bytes) as counter:
        counter.add(normalized() if rule is not None else words())
        table = counter.table()
    return table, token_text if rule is not None else bytes.decode


def _as_json(splitter: Any) -> Any:
    """A splitter's settings, as a tokenizer.json has them."""
    holder = Backend.from_str('{"model": {"type": "BPE", "vocab": {}, "merges": []}}')
    holder.pre_tokenizer = splitter
    return json.loads(holder.to_str())["pre_tokenizer"]


def _encoded(backend: Backend, table: WordTable, spell: Callable[[bytes], str]) -> Symbols:
    """The words as ids of the vocabulary."""
    tokenize = backend.model.tokenize
    ids: list[int] = []
    starts = np.zeros(len(table.counts) + 1, np.int64)
    for number, word in enumerate(table.texts(), 1):
        ids += [token.id for token in tokenize(spell(word))]
        starts[number] = len(ids)
    return Symbols(np.array(ids, np.int32), starts, table.counts)


def _texts_by_id(size: int, vocab: dict[str, int]) -> list[bytes]:
    """The bytes of every token; an id without any has some that no merge can equal."""
    found = [b"\xff\xff%d" % id for id in range(size)]
    for name, id in vocab.items():
        found[id] = token_bytes(name) or found[id]
    return found
