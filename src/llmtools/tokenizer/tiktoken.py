"""tiktoken's rank files: a line for each token, its bytes in base64 and its rank, which is its id.

The merges are found as tiktoken's own exporter finds them: a token is made of the two pieces that
merging by lower ranks alone leaves of its bytes. Split rule and special tokens are not in the file;
they are those of the encoding that its name says (`o200k_base.tiktoken`, `mine.llama3.tiktoken`),
else of the one that has as many ranks.
Source: tiktoken 0.14, tiktoken_ext/openai_public.py.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import tokenizers
from tokenizers import AddedToken, decoders, models

from llmtools.errors import InputError
from llmtools.formats.rank_files import RANK_LINE
from llmtools.tokenizer import split
from llmtools.tokenizer.bytes_chars import byte_chars

_END = "<|endoftext|>"
_FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """rule: of split.py. num_ranks: None where files of any size have this rule."""

    rule: str
    num_ranks: int | None = None
    special: dict[str, int] = field(default_factory=dict)


_CL100K = {_END: 100257, **dict(zip(_FIM, range(100258, 100261), strict=True))}
ENCODINGS: dict[str, Encoding] = {
    "r50k": Encoding(rule="gpt2", num_ranks=50256, special={_END: 50256}),
    "p50k": Encoding(rule="gpt2", num_ranks=50280, special={_END: 50256}),
    "cl100k": Encoding(
        rule="gpt4", num_ranks=100256, special={**_CL100K, "<|endofprompt|>": 100276}
    ),
    "o200k": Encoding(
        rule="o200k", num_ranks=199998, special={_END: 199999, "<|endofprompt|>": 200018}
    ),
    "gpt2": Encoding(rule="gpt2"),
    "gpt4": Encoding(rule="gpt4"),
    "llama3": Encoding(rule="llama3"),
    "qwen2": Encoding(rule="qwen2"),
}


def tokenizer_json(data: bytes, file: Path) -> str:
    """The text of a tokenizer.json for a rank file.

    raises: InputError for a damaged line, a token or id twice, a byte without a rank, or an
    encoding that neither name nor size tells.
    """
    ranks = _read(data, str(file))
    encoding = _encoding(ranks, file)
    tokens = sorted(ranks, key=ranks.__getitem__)
    vocab, merges = {}, []
    is_whole = True
    for token, text in zip(tokens, _texts(tokens), strict=True):
        vocab[text] = ranks[token]
        if len(token) > 1:
            at = _seam(token, ranks)
            if at:
                # A character stands for each byte.
                merges.append((text[:at], text[at:]))
            else:
                is_whole = False
    # tiktoken looks a whole word up first; that matters only for tokens that no merge makes.
    frame = tokenizers.Tokenizer(models.BPE(ignore_merges=not is_whole))
    frame.normalizer = split.normalizer(encoding.rule)
    frame.pre_tokenizer = split.pre_tokenizer(encoding.rule)
    frame.decoder = decoders.ByteLevel()
    fields = json.loads(frame.to_str())
    # In the model too, so that an added token's id is kept whatever comes before it.
    fields["model"] |= {"vocab": vocab | encoding.special, "merges": merges}
    fields["added_tokens"] = [_added(token, id) for token, id in encoding.special.items()]
    return orjson.dumps(fields).decode()


def _texts(tokens: Sequence[bytes]) -> Iterator[str]:
    """token_text of many tokens, translated in one go."""
    table = dict(enumerate(byte_chars()))
    text = b"".join(tokens).decode("latin-1").translate(table)
    ends = itertools.accumulate(map(len, tokens))
    return (text[end - len(token) : end] for token, end in zip(tokens, ends, strict=True))


def _added(token: str, id: int) -> dict[str, Any]:
    """A special token's fields; the library would number it itself, tiktoken's leave holes."""
    added = AddedToken(token, normalized=False, special=True)
    flags = {key: getattr(added, key) for key in ("single_word", "lstrip", "rstrip")}
    return {"id": id, "content": token, **flags, "normalized": False, "special": True}


def _read(data: bytes, where: str) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line:
            continue
        if RANK_LINE.fullmatch(line) is None:
            raise InputError(f"{where}:{number}: not a token in base64 and its rank")
        code, _, rank = line.partition(b" ")
        try:
            token = base64.b64decode(code, validate=True)
        except binascii.Error as fault:
            raise InputError(f"{where}:{number}: not base64: {fault}") from fault
        if token in ranks:
            raise InputError(f"{where}:{number}: token {token!r} is there twice")
        if len(rank) > 9:
            raise InputError(f"{where}:{number}: rank {rank[:20].decode()} is no token id")
        ranks[token] = int(rank)
    if len(set(ranks.values())) != len(ranks):
        raise InputError(f"{where}: two tokens have the same rank")
    absent = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if absent:
        raise InputError(
            f"{where}: {len(absent)} of the 256 bytes have no rank (the first: {absent[0]});"
            " is the file cut short?"
        )
    first = min(ranks.values())
    if first:
        raise InputError(
            f"{where}: the ranks begin at {first}, so the ids before it are special tokens, which"
            " a rank file does not name; use the tokenizer.json that it was exported from"
        )
    return ranks


def _encoding(ranks: dict[bytes, int], file: Path) -> Encoding:
    words = re.split(r"[._\-]", file.name.lower())
    for name, encoding in ENCODINGS.items():
        if name in words:
            if encoding.num_ranks not in (None, len(ranks)):
                raise InputError(
                    f"{file}: {len(ranks)} ranks, but {name} has {encoding.num_ranks};"
                    " is the file cut short?"
                )
            return encoding
    for encoding in ENCODINGS.values():
        if encoding.num_ranks == len(ranks):
            return encoding
    raise InputError(
        f"{file}: {len(ranks)} ranks belong to no known encoding; name the split rule in the file's"
        f" name, as in mine.gpt4.tiktoken (known: {', '.join(ENCODINGS)})"
    )


def _seam(token: bytes, ranks: Mapping[bytes, int]) -> int:
    """Where a token of several bytes is joined from the two pieces that lower ranks leave of it.

    0 where they leave more than two.
    """
    limit = ranks[token]
    rank_of = ranks.get
    # Where each part ends, and the rank of each part and the one after it.
    ends = list(range(len(token) + 1))
    found = [rank_of(token[at : at + 2], limit) for at in range(len(token) - 1)]
    while len(found) > 1:
        best = min(found)
        if best >= limit:
            return 0
        at = found.index(best)
        del found[at], ends[at + 1]
        if at < len(found):
            found[at] = rank_of(token[ends[at] : ends[at + 2]], limit)
        if at:
            found[at - 1] = rank_of(token[ends[at - 1] : ends[at + 1]], limit)
    return ends[1]
