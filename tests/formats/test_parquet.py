"""Parquet files are read as the JSON lines that their rows are."""

from __future__ import annotations

import datetime
import gzip
import json
import random
import sys
from decimal import Decimal
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtools.errors import InputError, ResourceError
from llmtools.formats.content_size import content_size
from llmtools.formats.document import read_documents
from llmtools.formats.skips import Skips
from llmtools.formats.stream import open_input
from support import run_llm

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = [
    {"id": f"d{i}", "text": f"line {i}\n\té 😀 " + "word " * (i % 90), "n": i, "of": [i, None]}
    for i in range(2500)
]


def write(path: Path, rows: object = ROWS, **options: object) -> Path:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    pq.write_table(table, path, **options)
    return path


def lines(path: Path) -> list[dict[str, object]]:
    with open_input(str(path)) as stream:
        return [json.loads(line) for line in stream.lines()]


@pytest.mark.parametrize("options", [{}, {"row_group_size": 7}, {"compression": "zstd"}])
def test_rows_are_those_of_pyarrow(tmp_path, options):
    path = write(tmp_path / "a.parquet", **options)
    assert lines(path) == pq.read_table(path).to_pylist() == ROWS


def test_the_digest_and_the_bytes_are_those_of_the_file(tmp_path):
    path = write(tmp_path / "a.parquet", row_group_size=100)
    with open_input(str(path)) as stream:
        while stream.read(100_000):
            pass
        assert stream.num_bytes == path.stat().st_size
        assert stream.digest == xxhash.xxh3_128_hexdigest(path.read_bytes())


def test_what_json_has_no_form_for_of_its_own(tmp_path):
    table = pa.table(
        {
            "ns": pa.array([1_700_000_000_000_000_001], pa.timestamp("ns")),
            "utc": pa.array([1_700_000_000_000_000], pa.timestamp("us", tz="UTC")),
            "day": [datetime.date(2024, 2, 29)],
            "decimal": pa.array([Decimal("1.50")]),
            "seconds": pa.array([1500], pa.duration("ms")),
            "nan": [float("nan")],
            "large": pa.array([2**64 - 1], pa.uint64()),
            "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
            "kind": pa.array(["u"]).dictionary_encode(),
        }
    )
    assert lines(write(tmp_path / "a.parquet", table)) == [
        {
            "ns": "2023-11-14T22:13:20.000000001",
            "utc": "2023-11-14T22:13:20+00:00",
            "day": "2024-02-29",
            "decimal": "1.50",
            "seconds": 1.5,
            "nan": None,
            "large": 2**64 - 1,
            "map": [["k", 1]],
            "kind": "u",
        }
    ]


@settings(max_examples=50)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), st.integers(1, 9))
def test_any_text_comes_through(tmp_path_factory, texts, size):
    path = tmp_path_factory.mktemp("any") / "a.parquet"
    write(path, [{"text": text} for text in texts], row_group_size=size)
    assert [d.text for d in read_documents([str(path)])] == texts


def test_a_text_that_is_not_utf8_is_one_malformed_record(tmp_path):
    stored = pa.array([b"good", b"b\xffd", "é".encode()], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, stored.buffers())
    path = str(write(tmp_path / "a.parquet", pa.table({"text": text, "t": [{"a": 1}] * 3})))
    with pytest.raises(InputError, match=r"a.parquet:2: not UTF-8"):
        list(read_documents([path]))
    skips = Skips("skip")
    assert [d.text for d in read_documents([path], skips=skips)] == ["good", "é"]
    assert skips.count == 1


@pytest.mark.parametrize(
    ("columns", "mention"),
    [
        ({"text": ["a", "b"], "image": [None, b"x"]}, "a.parquet:2: column 'image': .*: bytes"),
        (
            {"text": ["a"], "n": pa.array([None], pa.null()), "of": [[b"x"]]},
            "a.parquet:1: column 'of'",
        ),
    ],
)
def test_bytes_are_refused_naming_the_row(tmp_path, columns, mention):
    path = write(tmp_path / "a.parquet", pa.table(columns))
    with pytest.raises(InputError, match=mention):
        lines(path)


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = write(tmp_path / "a.parquet", pa.table([["a"], ["b"]], names=["text", "text"]))
    with pytest.raises(InputError, match="two columns are called 'text'"):
        lines(path)


def test_damaged_files_are_refused_or_read(tmp_path):
    stored = write(tmp_path / "a.parquet", ROWS[:40], write_page_checksum=True).read_bytes()
    draw = random.Random(2)
    path = tmp_path / "b.parquet"
    refused = 0
    for number in range(300):
        damaged = bytearray(stored)
        if number % 3:
            damaged[draw.randrange(4, len(damaged))] ^= 1 << draw.randrange(8)
        else:
            del damaged[draw.randrange(4, len(damaged)) :]
        path.write_bytes(damaged)
        try:
            lines(path)
        except InputError as fault:
            assert str(path) in str(fault)
            refused += 1
    assert refused > 150


def test_pipes_and_compressed_ones_are_refused(tmp_path):
    stored = write(tmp_path / "a.parquet").read_bytes()
    done = run_llm("dedup", stdin=stored, check=False)
    assert done.returncode == 3 and b"read from its end, which no pipe gives" in done.stderr
    (tmp_path / "b.gz").write_bytes(gzip.compress(stored))
    with pytest.raises(InputError, match="Parquet file that is compressed as a whole"):
        list(read_documents([str(tmp_path / "b.gz")]))


@pytest.mark.parametrize(("version", "mention"), [(None, "need pyarrow"), ("14.0.0", "upgrade")])
def test_without_a_safe_pyarrow_the_extra_is_named(tmp_path, monkeypatch, version, mention):
    path = write(tmp_path / "a.parquet")
    if version is None:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    else:
        monkeypatch.setattr(pa, "__version__", version)
    with pytest.raises(ResourceError, match=rf"{mention}.*\[parquet\]"):
        lines(path)


def test_its_content_is_about_that_of_its_lines(tmp_path):
    path = write(tmp_path / "a.parquet", row_group_size=1000)
    size, is_exact = content_size(str(path))
    with open_input(str(path)) as stream:
        assert not is_exact and size / 2 < len(stream.read()) < size * 2


@pytest.mark.parametrize("more", [[], ["--workers", "2"]])
def test_commands_write_what_they_write_from_json_lines(tmp_path, more):
    for folder in ("rows", "lines"):
        (tmp_path / folder).mkdir()
    for name, rows in (("a", ROWS[:900]), ("b", ROWS[800:])):
        path = write(tmp_path / "rows" / f"{name}.parquet", rows)
        with open_input(str(path)) as stream:
            (tmp_path / "lines" / f"{name}.jsonl").write_bytes(stream.read())
    for folder in ("rows", "lines"):
        place = tmp_path / folder
        run_llm("dedup", place, "-o", tmp_path / f"{folder}.jsonl", "--cluster-ids", *more)
    found = (tmp_path / "rows.jsonl").read_bytes()
    assert found.count(b"\n") > 20 and found == (tmp_path / "lines.jsonl").read_bytes()
