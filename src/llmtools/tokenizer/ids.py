"""Whether the ids of a tokenizer.json can be what they say.

The `tokenizers` library takes two tokens with one id, leaves holes, and gives an added token
another id than the file says where that one is taken; each makes ids mean something else without a
word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmtools.errors import InputError


def check_ids(fields: Mapping[str, Any], vocabulary: Mapping[str, int], where: str) -> None:
    """fields: of the file; vocabulary: token -> id as the library has it, added tokens included.

    raises: InputError for an id of two tokens, an added token with another id than the file says,
    or an id without a token below the last ordinary one; added tokens may leave holes, as those of
    o200k_base do.
    """
    added = {token["content"]: token["id"] for token in fields.get("added_tokens") or []}
    for token, id in added.items():
        if vocabulary.get(token) != id:
            raise InputError(
                f"{where}: added token {token!r} has id {id}, but would get"
                f" {vocabulary.get(token)}; ids of added tokens follow those of the model"
            )
    by_id: dict[int, str] = {}
    for token, id in vocabulary.items():
        if id in by_id:
            raise InputError(f"{where}: tokens {by_id[id]!r} and {token!r} have the same id, {id}")
        by_id[id] = token
    last = max((id for token, id in vocabulary.items() if token not in added), default=-1)
    if last >= len(vocabulary):
        hole = next(id for id in range(last) if id not in by_id)
        raise InputError(
            f"{where}: no token has id {hole}, though ordinary tokens have ids up to {last}"
        )
