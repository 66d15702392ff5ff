"""Which documents a command dropped, and why: small enough to be written always.

A sequence of safetensors blobs, like token frames, each with

    document_ids  uint64 [D], xxh3-64 of the document's id
    rules         uint8 [D], index into the metadata's `rules`
    values        float32 [D], the measured value (NaN where the rule has none)
    kept_ids      uint64 [D], the document that stayed in its place (0 where there is none)
    __metadata__  format=llmtools/drops@1, rules: a JSON list of names
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from llmtools.errors import InputError
from llmtools.formats import tensor_header

FORMAT = "llmtools/drops@1"
BLOB_DOCUMENTS = 1 << 16
MAX_HEADER_BYTES = 1 << 16
MAX_RULES = 255
NAN = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """One dropped document: its id's hash, the rule, and the value or the kept twin if any."""

    document_id: int
    rule: str
    value: float | None = None
    kept_id: int | None = None


class DropLog:
    """Collects dropped documents; 21 bytes each are held until the log is written."""

    def __init__(self) -> None:
        self._rules: dict[str, int] = {}
        self._ids: list[int] = []
        self._rule_of: list[int] = []
        self._values: list[float] = []
        self._kept: list[int] = []
        self._blobs = io.BytesIO()
        self.num_documents = 0

    def add(self, document_id: int, rule: str, value: float | None = None) -> None:
        """Append one document, as `Drop` describes it."""
        self.add_all([document_id], [rule], [value])

    def add_all(
        self, document_ids: list[int], rules: list[str], values: list[float | None]
    ) -> None:
        """Append some documents, in order."""
        self._ids += document_ids
        self._rule_of += map(self._rule, rules)
        self._values += [NAN if value is None else value for value in values]
        self._kept += [0] * len(document_ids)
        self.num_documents += len(document_ids)
        if len(self._ids) >= BLOB_DOCUMENTS:
            self._flush()

    def add_twins(
        self,
        rule: str,
        document_ids: npt.NDArray[np.uint64],
        kept_ids: npt.NDArray[np.uint64],
    ) -> None:
        """Append documents that were dropped for another one that stays."""
        self._flush()
        for start in range(0, len(document_ids), BLOB_DOCUMENTS):
            part = slice(start, start + BLOB_DOCUMENTS)
            count = len(document_ids[part])
            rules = np.full(count, self._rule(rule), np.uint8)
            values = np.full(count, np.nan, np.float32)
            self._write(document_ids[part], rules, values, kept_ids[part])
        self.num_documents += len(document_ids)

    def _rule(self, name: str) -> int:
        number = self._rules.setdefault(name, len(self._rules))
        assert number < MAX_RULES
        return number

    def _flush(self) -> None:
        if self._ids:
            self._write(
                np.array(self._ids, np.uint64),
                np.array(self._rule_of, np.uint8),
                np.array(self._values, np.float32),
                np.array(self._kept, np.uint64),
            )
        self._ids, self._rule_of, self._values, self._kept = [], [], [], []

    def _write(
        self,
        ids: npt.NDArray[np.uint64],
        rules: npt.NDArray[np.uint8],
        values: npt.NDArray[np.float32],
        kept: npt.NDArray[np.uint64],
    ) -> None:
        arrays: dict[str, np.ndarray] = {
            "document_ids": ids,
            "rules": rules,
            "values": values,
            "kept_ids": kept,
        }
        metadata = {"format": FORMAT, "rules": json.dumps(list(self._rules))}
        for piece in tensor_header.dump(arrays, metadata):
            self._blobs.write(piece)

    def data(self) -> bytes:
        """The whole log as it is stored."""
        self._flush()
        return self._blobs.getvalue()


def find_drops(path: Path, document_id: int) -> list[Drop]:
    """What a drop log says about one document; raises InputError for a malformed log."""
    with open(path, "rb") as file:
        blobs = _blobs(cast(Any, file), str(path))
        return [drop for blob in blobs for drop in _in(blob, document_id)]


def _blobs(file: Any, where: str) -> Iterator[tuple[list[str], dict[str, np.ndarray]]]:
    while (header := tensor_header.read_header(file, where, MAX_HEADER_BYTES)) is not None:
        if header.metadata.get("format") != FORMAT:
            raise InputError(f"{where}: not a drop log")
        data = tensor_header.read_exactly(file, header.data_bytes, where)
        names = ("document_ids", "rules", "values", "kept_ids")
        if set(names) != header.tensors.keys():
            raise InputError(f"{where}: a drop log has {', '.join(names)}")
        arrays = {name: tensor_header.view(header.tensors[name], data) for name in names}
        if len({array.shape for array in arrays.values()}) != 1:
            raise InputError(f"{where}: the arrays of a drop log differ in length")
        try:
            rules = json.loads(header.metadata.get("rules", ""))
        except (ValueError, RecursionError) as fault:
            raise InputError(f"{where}: the rules of a drop log are not JSON") from fault
        if not isinstance(rules, list) or int(arrays["rules"].max(initial=0)) >= len(rules):
            raise InputError(f"{where}: a drop log names rules that it does not list")
        yield [str(rule) for rule in rules], arrays


def _in(blob: tuple[list[str], dict[str, np.ndarray]], document_id: int) -> Iterator[Drop]:
    rules, arrays = blob
    for at in np.flatnonzero(arrays["document_ids"] == np.uint64(document_id)).tolist():
        value, kept = float(arrays["values"][at]), int(arrays["kept_ids"][at])
        yield Drop(
            document_id=document_id,
            rule=rules[int(arrays["rules"][at])],
            value=None if np.isnan(value) else value,
            kept_id=kept or None,
        )
