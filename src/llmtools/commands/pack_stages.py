"""`llm pack --workers`: documents are encoded in units, and all of them packed by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtools.formats.input_names import expand_inputs
from llmtools.formats.stream import open_input
from llmtools.formats.tensor_header import is_container

Stages = tuple[list[str], list[dict[str, Any]]]


def pack_stages(values: dict[str, Any]) -> Stages:
    """Names and values of the commands that do together what `pack` does with these values.

    One alone for token frames, and to fill in the middle, which cuts documents before they are
    encoded.
    """
    inputs = values["inputs"] or []
    if values["tokenizer"] is None or values["fim_rate"] or _has_frames(inputs):
        return ["pack"], [values]
    shared = {key: values[key] for key in ("text_key", "id_key", "on_error", "rejects")}
    encode = shared | {
        "inputs": inputs,
        "tokenizer": values["tokenizer"],
        "bos": values["strategy"] == "bos-bestfit",
        "format": "frames",
        "dtype": "auto",
    }
    rows: dict[str, Any] = {"inputs": [], "tokenizer": None, "on_error": "fail", "rejects": None}
    return ["tokenize", "pack"], [encode, values | rows]


def _has_frames(inputs: Sequence[str]) -> bool:
    for path in expand_inputs(inputs):
        with open_input(path) as stream:
            if is_container(stream.peek(9)):
                return True
    return False
