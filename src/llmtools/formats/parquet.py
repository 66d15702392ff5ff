"""Rows of Parquet files as JSON lines, so that whatever reads documents reads them too.

pyarrow (the extra `parquet`) is imported where there is such a file. A row is an object of its
columns, in their order: dates and times in ISO 8601, decimals as strings, NaN and infinities as
null, which JSON has no numbers for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import orjson

from llmtools.errors import InputError, ResourceError

MAGIC = b"PAR1"
# Rows are converted by batches of about so many bytes, and no more rows than this.
BATCH_BYTES = 1 << 20
BATCH_ROWS = 512
_READ_BYTES = 1 << 20
# Older ones run code that a file brings along (CVE-2023-47248).
_OLDEST = (14, 0, 1)


def is_parquet(path: str) -> bool:
    """By its first bytes; raises OSError for a file that cannot be read."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def content_bytes(path: str) -> int:
    """About how many bytes of JSON lines a file stands for: its columns, decoded, and their names.

    Raises like read_lines.
    """
    with _faults(path), _open(path) as file:
        footer = file.metadata
        names = sum(len(json.dumps(name)) + 4 for name in file.schema_arrow.names)
        groups = (footer.row_group(i) for i in range(footer.num_row_groups))
        return sum(group.total_byte_size + group.num_rows * names for group in groups)


def read_lines(path: str) -> Iterator[tuple[bytes, float]]:
    """(some JSON lines, the share of the file that they end), in the order of rows.

    A text that is not UTF-8 stays as it is, in a line that is not UTF-8 either. Raises
    ResourceError without pyarrow, InputError for a file that is damaged or holds bytes.
    """
    with _faults(path), _open(path) as file:
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{path}: two columns are called {twice!r}; rename one")
        row = 1
        num_groups = file.metadata.num_row_groups
        for index in range(num_groups):
            group = file.metadata.row_group(index)
            fit = BATCH_BYTES * group.num_rows // max(group.total_byte_size, 1)
            batches = file.iter_batches(
                batch_size=min(max(fit, 1), BATCH_ROWS), row_groups=[index], use_threads=False
            )
            for batch in batches:
                yield b"".join(_lines(batch, f"{path}:", row)), (index + 1) / num_groups
                row += batch.num_rows


def _open(path: str) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as fault:
        raise ResourceError(
            f"{path}: Parquet files need pyarrow; install it with:"
            " pip install 'llmtools-cli[parquet]'"
        ) from fault
    version = tuple(int(part) for part in pyarrow.__version__.split(".")[:3] if part.isdigit())
    if version < _OLDEST:
        raise ResourceError(
            f"{path}: pyarrow {pyarrow.__version__} runs code that files bring along; upgrade it"
            " with: pip install --upgrade 'llmtools-cli[parquet]'"
        )
    return parquet.ParquetFile(path, buffer_size=_READ_BYTES, page_checksum_verification=True)


@contextmanager
def _faults(path: str) -> Iterator[None]:
    """Turns what pyarrow raises into one message naming the file."""
    try:
        yield
    # All of pyarrow's own faults are one of these, or a MemoryError.
    except (ValueError, OSError, NotImplementedError, LookupError, TypeError) as fault:
        told = (str(fault).splitlines() or [type(fault).__name__])[0].rstrip(".")
        raise InputError(f"{path}: not a Parquet file that can be read: {told}") from fault


def _lines(batch: Any, where: str, first: int) -> Iterator[bytes]:
    """The lines of a batch of rows, the first of which has the number `first`."""
    names = batch.schema.names
    try:
        columns = [column.to_pylist() for column in batch.columns]
    except UnicodeDecodeError:
        columns = [_as_stored(column) for column in batch.columns]
        dumps = _dump_as_stored
    else:
        dumps = _dump
    if not names:
        columns = [[None] * batch.num_rows]
    for number, values in enumerate(zip(*columns, strict=True), first):
        try:
            yield dumps(dict(zip(names, values, strict=False)))
        except TypeError as fault:
            column = next(
                name for name, value in zip(names, values, strict=True) if not _fits(value)
            )
            raise InputError(
                f"{where}{number}: column {column!r}: {fault}; write the file without it"
            ) from fault


def _as_stored(column: Any) -> list[Any]:
    """The values of a column, texts with what is not UTF-8 in them as lone surrogates."""
    import pyarrow as pa

    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return list(column.to_pylist())
    is_large = pa.types.is_large_string(column.type)
    stored = column.cast(pa.large_binary() if is_large else pa.binary())
    return [v if v is None else v.decode("utf-8", "surrogateescape") for v in stored.to_pylist()]


def _dump(fields: dict[str, Any]) -> bytes:
    return orjson.dumps(fields, default=_plain, option=orjson.OPT_APPEND_NEWLINE)


def _dump_as_stored(fields: dict[str, Any]) -> bytes:
    """The same, with bytes that are not UTF-8 as they were."""
    plain = {key: _restored(value) for key, value in fields.items()}
    line = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return line.encode("utf-8", "surrogateescape") + b"\n"


def _restored(value: Any) -> Any:
    return value if isinstance(value, str) else orjson.loads(_dump({"": value}))[""]


def _fits(value: Any) -> bool:
    try:
        _dump({"": value})
    except TypeError:
        return False
    return True


def _plain(value: Any) -> Any:
    """What orjson does not know: times in nanoseconds and durations, decimals."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    raise TypeError
