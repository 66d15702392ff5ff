"""The lines of a stream, a block at a time, with the texts of those that are plain documents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from llmtools.formats.document_kernel import COLUMNS, PADDING, take_documents
from llmtools.formats.stream import READ_BYTES, InputStream

# Below it parsing the lines costs less than making the kernel ready.
LEAST_BYTES = 1 << 16
# Lines that are taken at a time.
_LINES = 1 << 12

# The text in UTF-8, the id or None, and where the JSON string of the text stands in the line.
Taken = tuple[bytes, str | None, tuple[int, int]]


def scan_lines(
    stream: InputStream, text_key: str, id_key: str
) -> Iterator[tuple[bytes, Taken | None]]:
    """Each line without its end, and what was taken from it.

    None where the line is no plain document, which a JSON parser has to look at; a line that is
    too long comes in parts, as from `InputStream.lines`.
    """
    # What is held of a line, which is less than READ_BYTES, and as many more: far less than
    # MAX_RECORD_BYTES, so that only what outgrows it has to be measured.
    room = bytearray(2 * READ_BYTES + PADDING)
    data = memoryview(room)
    scan = _Scanner(room, text_key, id_key)
    held = 0
    while size := stream.readinto1(data[held : held + READ_BYTES]):
        filled = held + size
        end = room.rfind(b"\n", held, filled) + 1
        if end > 0:
            yield from scan(end)
            data[: filled - end] = data[end:filled]
            filled -= end
        elif filled >= READ_BYTES:
            yield stream.line_from(bytes(data[:filled])).rstrip(b"\r\n"), None
            filled = 0
        held = filled
    if held:
        yield bytes(data[:held]).rstrip(b"\r\n"), None


class _Scanner:
    """Takes documents from the beginning of a block."""

    def __init__(self, room: bytearray, text_key: str, id_key: str) -> None:
        names = (text_key, id_key, "metadata")
        self._is_sure = len(set(names)) == len(names)
        self._keys = [_array(name.encode(errors="surrogateescape")) for name in names]
        self._data = memoryview(room)
        self._texts: npt.NDArray[np.uint8] | None = None

    def __call__(self, size: int) -> Iterator[tuple[bytes, Taken | None]]:
        """The lines in the first `size` bytes, of which the last is a line feed."""
        data = self._data
        if size < LEAST_BYTES or not self._is_sure:
            for line in bytes(data[:size]).split(b"\n")[:-1]:
                yield line.rstrip(b"\r"), None
            return
        if self._texts is None:
            self._texts = np.empty(len(data), np.uint8)
            self._found = np.empty((_LINES, COLUMNS), np.int64)
            self._buffer = np.frombuffer(data, np.uint8)
        text_key, id_key, metadata_key = self._keys
        texts = self._texts.data
        at = 0
        while at < size:
            count, at = take_documents(
                self._buffer,
                at,
                size,
                text_key,
                id_key,
                metadata_key,
                self._texts,
                self._found,
            )
            for start, stop, text, text_end, name, name_end, first, last in self._found[
                :count
            ].tolist():
                line = data[start:stop].tobytes()
                if text < 0:
                    yield line, None
                    continue
                own = str(data[name:name_end], "utf-8") if name >= 0 else None
                yield line, (texts[text:text_end].tobytes(), own, (first, last))


def _array(data: bytes) -> npt.NDArray[np.uint8]:
    return np.array(list(data), np.uint8)
