"""Documents with what a person, or a larger model, said of each: what scorers are trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from llmtools.errors import InputError, UsageError
from llmtools.formats.document import read_documents
from llmtools.formats.malformed import MalformedRecord, kind_of
from llmtools.formats.record import Document
from llmtools.formats.skips import Skips
from llmtools.formats.stream import InputStream

Integers = npt.NDArray[np.int64]


T = TypeVar("T")
MAX_RATING = 1e30


def labelled_documents(
    inputs: list[str],
    label_key: str,
    convert: Callable[[Document, Any], T],
    *,
    text_key: str,
    on_read: Callable[[InputStream], None],
    skips: Skips,
) -> Iterator[tuple[Document, T]]:
    """Each document and its label: the field `label_key`, dots for fields inside of fields.

    A document without a label, or whose label `convert` refuses, is malformed: InputError, or
    `skips` drops it.
    """
    for document in read_documents(inputs, text_key=text_key, on_read=on_read, skips=skips):
        value: Any = document.fields
        for name in label_key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        try:
            if value is None:
                found = ", ".join(map(repr, document.fields))
                reason = f"no field {label_key!r} (fields: {found}); name it with --label-key"
                raise MalformedRecord(document.where, reason, document.raw)
            label = convert(document, value)
        except MalformedRecord as fault:
            skips.drop(fault)
            continue
        yield document, label


def as_class(document: Document, value: Any) -> str:
    """A label as a name; raises MalformedRecord for what is none."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    # A NUL ends a name in fastText's files, a line end no label of its tools can hold.
    if not isinstance(value, str) or not value or set(value) & set("\0\n\r"):
        shown = repr(value) if isinstance(value, str) else kind_of(value)
        reason = f"the label is {shown}; a name or a whole number was expected"
        raise MalformedRecord(document.where, reason, document.raw)
    return value


def as_number(document: Document, value: Any) -> float:
    """A label as a number, true and false as 1 and 0; raises MalformedRecord for what is none."""
    if not isinstance(value, int | float) or not abs(value) <= MAX_RATING:
        reason = f"the label is {value!r}, not a number up to {MAX_RATING:g}"
        raise MalformedRecord(document.where, reason, document.raw)
    return float(value)


def hold_out(num_documents: int, fraction: float, seed: int) -> tuple[Integers, Integers]:
    """Two ascending lists of documents: to train on, and held out; the same for the same seed.

    Raises UsageError for a fraction beyond [0, 0.9], InputError where a part would be empty.
    """
    if not 0 <= fraction <= 0.9:
        raise UsageError(f"--val-fraction {fraction}: a number from 0 to 0.9")
    held = round(num_documents * fraction)
    if num_documents - held < 2 or (fraction > 0 and held < 1):
        raise InputError(
            f"{num_documents} documents are too few to train on with {fraction} of them held out"
        )
    order = np.random.default_rng(seed).permutation(num_documents)
    return np.sort(order[held:]), np.sort(order[:held])
