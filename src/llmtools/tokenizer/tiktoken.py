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
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models

from llmtools.errors import InputError
from llmtools.tokenizer import split
from llmtools.tokenizer.bytes_chars import token_text

_LINE = re.compile(rb"[A-Za-z0-9+/]+=* [0-9]+")
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


def is_ranks(head: bytes) -> bool:
    """Whether the first bytes of a file are a whole line of a rank file."""
    line, found, _ = head.partition(b"\n")
    return bool(found) and _LINE.fullmatch(line.rstrip(b"\r")) is not None


def tokenizer_json(data: bytes, file: Path) -> str:
    """The text of a tokenizer.json for a rank file.

    raises: InputError for a damaged line, a token or id twice, a byte without a rank, or an
    encoding that neither name nor size tells.
    """
    ranks = _read(data, str(file))
    encoding = _encoding(ranks, file)
    vocab = {token_text(token): rank for token, rank in ranks.items()}
    merges = []
    is_whole = True
    for token in sorted(ranks, key=ranks.__getitem__):
        parts = _parts(token, ranks)
        if len(parts) == 2:
            merges.append((token_text(parts[0]), token_text(parts[1])))
        elif len(parts) > 2:
            is_whole = False
    # tiktoken looks a whole word up first; that matters only for tokens that no merge makes.
    built = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=not is_whole))
    built.normalizer = split.normalizer(encoding.rule)
    built.pre_tokenizer = split.pre_tokenizer(encoding.rule)
    built.decoder = decoders.ByteLevel()
    text = built.to_str()
    return _with_special(text, encoding.special)


def _with_special(text: str, special: dict[str, int]) -> str:
    """The library numbers added tokens itself; tiktoken's leave holes."""
    fields = json.loads(text)
    for token, id in sorted(special.items(), key=lambda item: item[1]):
        added = AddedToken(token, normalized=False, special=True)
        flags = {key: getattr(added, key) for key in ("single_word", "lstrip", "rstrip")}
        fields["added_tokens"].append(
            {"id": id, "content": token, **flags, "normalized": False, "special": True}
        )
        # In the model too, so that its id is kept whatever comes before it.
        fields["model"]["vocab"][token] = id
    return json.dumps(fields, ensure_ascii=False)


def _read(data: bytes, where: str) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line:
            continue
        if _LINE.fullmatch(line) is None:
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


def _parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """What merging by ranks below the token's own leaves of its bytes."""
    limit = ranks[token]
    parts = [token[at : at + 1] for at in range(len(token))]
    rank_of = ranks.get
    # The rank of each part and the one after it.
    found = [rank_of(token[at : at + 2], limit) for at in range(len(token) - 1)]
    while len(parts) > 2:
        best = min(found)
        if best >= limit:
            break
        at = found.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del found[at]
        if at < len(found):
            found[at] = rank_of(parts[at] + parts[at + 1], limit)
        if at:
            found[at - 1] = rank_of(parts[at - 1] + parts[at], limit)
    return parts
