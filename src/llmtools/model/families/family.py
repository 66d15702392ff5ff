"""What a family table says; weight names are Hugging Face's own, so loading renames nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one `model_type` maps to the decoder.

    fixed:   config keys with a meaning that this decoder supports in these values alone.
    ignored: config keys that do not change what the model computes here.
    """

    model_type: str
    architecture: str
    fixed: Mapping[str, tuple[Any, ...]]
    ignored: frozenset[str]
