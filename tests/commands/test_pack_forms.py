"""`llm pack --format`: the rows of packed shards in the files of other programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmtools.formats.packed import PackedDataset
from support import assert_user_error, fetch_package, run_llm
from toy_tokenizer import TEXTS, save_toy

MEGATRON = "megatron-core==0.16.1"
SHA256 = "38f6bef63cd4ebc4c39c1eccbaf578596accba5c47d012faffa0670913aec131"
READER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from megatron.core.datasets.indexed_dataset import IndexedDataset
data = IndexedDataset(sys.argv[2], multimodal=False, mmap=True)
print(json.dumps([[int(i) for i in data[n]] for n in range(len(data))]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    save_toy(folder / "tok.json")
    lines = (json.dumps({"id": f"d{n}", "text": text}) for n, text in enumerate(TEXTS * 9))
    (folder / "docs.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


def pack(folder: Path, name: str, *flags: str) -> Path:
    run_llm(
        *("pack", folder / "docs.jsonl", "-t", folder / "tok.json", "--seq-len", "15"),
        *("-o", folder / name, "-f", *flags),
    )
    return folder / name


def rows_of(packed: Path) -> np.ndarray:
    data = PackedDataset(packed)
    return np.stack([data.row(n).input_ids for n in range(len(data))])


@pytest.mark.parametrize("strategy", ["concat", "best-fit"])
def test_numpy_files_hold_everything(place: Path, strategy: str) -> None:
    packed = pack(place, "packed", "--strategy", strategy)
    out = pack(place, "npy", "--strategy", strategy, "--format", "npy", "--dtype", "int64")
    arrays = {file.stem: np.load(file, allow_pickle=False) for file in out.glob("*.npy")}
    data = PackedDataset(packed)
    assert np.array_equal(arrays["input_ids"], rows_of(packed))
    assert arrays["input_ids"].dtype == np.int64
    ids, lengths = data.segments()
    assert np.array_equal(arrays["segments"], lengths)
    assert np.array_equal(arrays["segment_document_ids"], ids)
    counts = [len(data.row(n).segment_lengths) for n in range(len(data))]
    assert np.array_equal(np.diff(arrays["segment_offsets"]), counts)
    ones = np.ones(16, np.uint8)
    masks = [data.row(n).loss_mask for n in range(len(data))]
    assert np.array_equal(arrays["loss_mask"], [ones if m is None else m for m in masks])


def test_raw_ids_are_the_rows_in_turn(place: Path) -> None:
    packed = pack(place, "packed")
    out = pack(place, "raw", "--format", "raw")
    ids = np.fromfile(out / "input_ids.bin", "<u2")
    assert np.array_equal(ids.reshape(-1, 16), rows_of(packed))
    mask = np.fromfile(out / "loss_mask.bin", np.uint8)
    assert mask.size == ids.size and 0 < mask.sum() < mask.size
    names = {file.name for file in out.iterdir()}
    assert names == {"input_ids.bin", "loss_mask.bin", "manifest.json"}


@pytest.mark.network
def test_megatrons_own_reader_finds_the_rows(place: Path) -> None:
    package = fetch_package(MEGATRON, SHA256)
    packed, out = pack(place, "packed"), pack(place, "megatron", "--format", "megatron")
    argv = [sys.executable, "-W", "ignore", "-c", READER, package, out / "tokens"]
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.array(json.loads(done.stdout.splitlines()[-1]))
    assert np.array_equal(found, rows_of(packed))
    assert not np.array_equal(found, np.roll(rows_of(packed), 1))


def test_padding_that_megatron_cannot_mark_is_said(place: Path) -> None:
    done = run_llm(
        *("pack", place / "docs.jsonl", "-t", place / "tok.json", "--seq-len", "15"),
        *("-o", place / "padded", "--strategy", "best-fit", "--format", "megatron"),
    )
    assert b"no loss mask" in done.stderr


def test_units_write_the_same_rows(place: Path) -> None:
    whole = pack(place, "whole", "--format", "npy")
    units = pack(place, "units", "--format", "npy", "--workers", "2", "--shard-bytes", "2000")
    for file in whole.glob("*.npy"):
        assert (units / file.name).read_bytes() == file.read_bytes()


def test_a_dtype_without_a_form_is_refused(place: Path) -> None:
    done = run_llm(
        *("pack", place / "docs.jsonl", "-t", place / "tok.json", "--seq-len", "15"),
        *("-o", place / "x", "--dtype", "int32"),
        check=False,
    )
    assert_user_error(done, 2, "no effect with --format packed")
