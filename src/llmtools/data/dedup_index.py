"""The keys of a corpus that was deduplicated, for comparing later documents with it.

A directory of three files: `near.safetensors` and `exact.safetensors`, runs of bands.py, and
`documents.safetensors` with the documents' ids (`ids`, UTF-8, and `id_offsets`), the hashes of
those, and the settings. All documents are in it, dropped ones too, so that a corpus in two halves,
the second against an index of the first, keeps what one run over both keeps.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from llmtools.data.bands import open_run
from llmtools.data.duplicates import Signatures
from llmtools.data.minhash import MinHashSettings
from llmtools.errors import InputError, UsageError
from llmtools.formats import tensor_header
from llmtools.formats.replay import Reading
from llmtools.formats.tokens import check_offsets, typed_view

NEAR, EXACT, DOCUMENTS = "near.safetensors", "exact.safetensors", "documents.safetensors"
FORMAT = "llmtools/signatures@1"


class Names:
    """Ids of documents in one string: a third of the memory of a list of them."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._offsets = array("q", [0])

    def add(self, document_id: str) -> None:
        self._data += document_id.encode("utf-8", "surrogatepass")
        self._offsets.append(len(self._data))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> str:
        data = self._data[self._offsets[number] : self._offsets[number + 1]]
        return bytes(data).decode("utf-8", "surrogatepass")

    def arrays(self) -> dict[str, np.ndarray]:
        """As tensors of a file."""
        return {
            "ids": np.frombuffer(bytes(self._data), np.uint8),
            "id_offsets": np.array(self._offsets, np.int64),
        }

    def extend(self, ids: np.ndarray, id_offsets: np.ndarray) -> None:
        """Add those of a file."""
        start = len(self._data)
        self._data += ids.tobytes()
        self._offsets.extend((id_offsets[1:] + start).tolist())


class Stored:
    """What documents.safetensors holds of D documents.

    hashes: (D,) uint64, document_hash of the ids. values: (D,) float64 of the keep rule, or None.
    reading: how the documents were read, where they are to be read again.
    """

    def __init__(self, path: Path) -> None:
        file = path / DOCUMENTS
        try:
            data = file.read_bytes()
        except OSError as fault:
            raise InputError(f"{path}: not an index of dedup: {fault.strerror}") from fault
        with open(file, "rb") as stream:
            header = tensor_header.read_header(stream, str(file))
        if header is None or header.metadata.get("format") != FORMAT:
            raise InputError(f"{file}: not the documents of a dedup index")
        if len(data) != header.data_start + header.data_bytes:
            raise InputError(f"{file}: truncated")
        self.path = path
        self.settings = _settings(header.metadata, str(file))
        body = memoryview(data)[header.data_start :]

        def tensor(name: str, dtype: str) -> np.ndarray:
            return typed_view(header, body, name, (dtype,), 1, str(file))

        self.hashes = tensor("hashes", "U64")
        self.num_documents = self.hashes.size
        self.id_offsets = tensor("id_offsets", "I64")
        self.ids = tensor("ids", "U8")
        check_offsets(self.id_offsets, self.num_documents, self.ids.size, f"{file}: id_offsets")
        self.values = tensor("values", "F64") if "values" in header.tensors else None
        if self.values is not None and self.values.size != self.num_documents:
            raise InputError(f"{file}: {self.values.size} values, {self.num_documents} documents")
        self.reading: Reading | None = None
        if "dropped" in header.tensors:
            self.reading = Reading(
                num_documents=self.num_documents,
                dropped=tensor("dropped", "I64"),
                digests=tuple(header.metadata.get("digests", "").split()),
            )

    def attach(self, signatures: Signatures, base: int) -> None:
        """Count these documents, numbered from `base`, among those of `signatures`."""
        if self.settings != asdict(signatures.settings):
            changes = _differences(self.settings, signatures.settings)
            raise UsageError(f"{self.path} was made with other settings: {changes}")
        buckets = signatures.settings.num_buckets
        signatures.near.attach(open_run(self.path / NEAR, buckets, self.num_documents, base))
        signatures.exact.attach(open_run(self.path / EXACT, 1, self.num_documents, base))


def attach_all(stored: Iterable[Stored], signatures: Signatures) -> None:
    """Count the documents of several among those of `signatures`, one after another from 0."""
    base = 0
    for one in stored:
        one.attach(signatures, base)
        base += one.num_documents


def all_names(stored: Iterable[Stored], own: Names | None) -> Names:
    """The ids of the indexes' documents, and then of those that were read."""
    names = Names()
    for one in stored:
        names.extend(one.ids, one.id_offsets)
    if own is not None:
        names.extend(**own.arrays())
    return names


def _differences(was: dict[str, Any], now: MinHashSettings) -> str:
    return ", ".join(
        f"{name} was {was.get(name)}, now {value}"
        for name, value in asdict(now).items()
        if was.get(name) != value
    )


def _settings(metadata: dict[str, str], where: str) -> dict[str, Any]:
    try:
        found = orjson.loads(metadata.get("settings", ""))
    except orjson.JSONDecodeError as fault:
        raise InputError(f"{where}: its settings are not JSON") from fault
    if not isinstance(found, dict):
        raise InputError(f"{where}: its settings are no object")
    return found


def write_stored(
    folder: Path,
    signatures: Signatures,
    names: Names,
    hashes: npt.NDArray[np.uint64],
    values: npt.NDArray[np.float64] | None = None,
    reading: Reading | None = None,
) -> None:
    """Write the signatures of the documents that were added, in a directory that exists."""
    for name, bands in ((NEAR, signatures.near), (EXACT, signatures.exact)):
        with open(folder / name, "wb+") as file:
            bands.save(file, signatures.base)
    arrays: dict[str, np.ndarray] = {"hashes": hashes, **names.arrays()}
    if values is not None:
        arrays["values"] = values
    metadata = {
        "format": FORMAT,
        "settings": orjson.dumps(asdict(signatures.settings)).decode(),
    }
    if reading is not None:
        arrays["dropped"] = reading.dropped
        metadata["digests"] = " ".join(reading.digests)
    with open(folder / DOCUMENTS, "wb") as file:
        file.writelines(tensor_header.dump(arrays, metadata))
