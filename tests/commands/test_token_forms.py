"""`llm tokenize --format`: the same ids in the files of other programs."""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmtools.data.encode import EncodeSettings, encode_each
from llmtools.errors import InputError, UsageError
from llmtools.formats.record import Document
from llmtools.formats.token_forms import TokenForm
from llmtools.formats.tokens import read_frames
from support import assert_user_error, run_llm
from toy_tokenizer import ADVERSARIAL, TEXTS, save_toy, toy_tokenizer

ALL = [*TEXTS, *ADVERSARIAL, ""]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, documents and their frames."""
    folder = tmp_path_factory.mktemp("forms")
    save_toy(folder / "tok.json")
    lines = (json.dumps({"id": f"d{n}", "text": text}) for n, text in enumerate(ALL * 20))
    (folder / "docs.jsonl").write_text("".join(line + "\n" for line in lines))
    tokenize(folder, "frames.safetensors", "frames")
    return folder


def tokenize(folder: Path, output: str, form: str, *flags: str) -> Path:
    run_llm(
        *("tokenize", folder / "docs.jsonl", "-t", folder / "tok.json", "-o", folder / output),
        *("--format", form, *flags),
    )
    return folder / output


def expected(folder: Path) -> list[list[int]]:
    frames = read_frames([str(folder / "frames.safetensors")])
    return [ids.tolist() for frame in frames for _, ids, _ in frame.documents()]


def read_indexed(prefix: Path) -> list[list[int]]:
    """A reader of Megatron-LM's files, apart from ours: one number after another."""
    index = prefix.with_suffix(".idx").read_bytes()
    data = prefix.with_suffix(".bin").read_bytes()
    assert index[:9] == b"MMIDIDX\0\0"
    version, code = struct.unpack_from("<QB", index, 9)
    assert version == 1
    letter, size = {4: ("i", 4), 5: ("q", 8), 8: ("H", 2)}[code]
    num, num_documents = struct.unpack_from("<QQ", index, 18)
    lengths = struct.unpack_from(f"<{num}i", index, 34)
    pointers = struct.unpack_from(f"<{num}q", index, 34 + 4 * num)
    documents = struct.unpack_from(f"<{num_documents}q", index, 34 + 12 * num)
    assert len(index) == 34 + 12 * num + 8 * num_documents
    sequences = [
        list(struct.unpack_from(f"<{length}{letter}", data, at))
        for length, at in zip(lengths, pointers, strict=True)
    ]
    assert sum(map(len, sequences)) * size == len(data)
    return [
        [id for sequence in sequences[a:b] for id in sequence]
        for a, b in itertools.pairwise(documents)
    ]


@pytest.mark.parametrize("dtype", ["auto", "int32", "int64"])
def test_megatron_files_hold_every_document(place: Path, dtype: str) -> None:
    out = tokenize(place, f"megatron-{dtype}", "megatron", "--dtype", dtype)
    assert read_indexed(out / "tokens") == expected(place)
    assert json.loads((out / "manifest.json").read_bytes())["counts"]["documents"] == len(ALL) * 20


def test_a_shifted_pointer_is_seen(place: Path) -> None:
    out = tokenize(place, "shifted", "megatron")
    index = bytearray((out / "tokens.idx").read_bytes())
    num = struct.unpack_from("<Q", index, 18)[0]
    at = 34 + 4 * num + 8
    struct.pack_into("<q", index, at, struct.unpack_from("<q", index, at)[0] + 2)
    (out / "tokens.idx").write_bytes(index)
    assert read_indexed(out / "tokens") != expected(place)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int64"])
def test_flat_files_hold_all_ids_in_turn(place: Path, dtype: str) -> None:
    flat = [id for ids in expected(place) for id in ids]
    raw = tokenize(place, f"{dtype}.bin", "raw", "--dtype", dtype)
    assert np.fromfile(raw, dtype).tolist() == flat
    array = np.load(tokenize(place, f"{dtype}.npy", "npy", "--dtype", dtype), allow_pickle=False)
    assert (array.dtype, array.tolist()) == (np.dtype(dtype), flat)


def test_records_hold_ids_under_the_documents_own_names(place: Path) -> None:
    lines = tokenize(place, "ids.jsonl", "jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["ids"] for record in records] == expected(place)
    assert [record["id"] for record in records] == [f"d{n}" for n in range(len(ALL) * 20)]


@pytest.mark.parametrize("form", ["jsonl", "raw", "npy", "megatron"])
def test_units_give_the_bytes_of_one_process(place: Path, form: str) -> None:
    whole = tokenize(place, f"whole-{form}", form)
    units = tokenize(place, f"units-{form}", form, "--workers", "2", "--shard-bytes", "4000")
    names = ["tokens.bin", "tokens.idx"] if form == "megatron" else [""]
    for name in names:
        assert (units / name).read_bytes() == (whole / name).read_bytes()


def test_only_the_last_stage_has_a_form(place: Path) -> None:
    done = run_llm(
        *("run", "--work-dir", place / "work"),
        f"tokenize {place}/docs.jsonl -t {place}/tok.json --format raw | pack --seq-len 8 -o x",
        check=False,
    )
    assert_user_error(done, 2, "--format raw belongs to the last stage")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format", "megatron"], "name a directory"),
        (["--format", "megatron", "--dtype", "uint32", "-o", "x"], "int32"),
        (["--dtype", "int32"], "no effect with --format frames"),
        (["--format", "jsonl", "--dtype", "int32"], "no effect with --format jsonl"),
        (["--format", "parquet"], "parquet"),
        (["-o", "tokens.jsonl"], "add --format jsonl"),
        (["-o", "tokens.npy"], "add --format npy"),
    ],
)
def test_forms_that_cannot_be_are_refused(place: Path, flags: list[str], message: str) -> None:
    done = run_llm(
        *("tokenize", place / "docs.jsonl", "-t", place / "tok.json", *flags), check=False
    )
    assert_user_error(done, 2, message)


def test_a_vocabulary_must_fit_into_the_dtype() -> None:
    assert TokenForm(name="raw").dtype_for(65536) == np.uint16
    assert TokenForm(name="raw").dtype_for(65537) == np.uint32
    assert TokenForm(name="megatron").dtype_for(65499) == np.uint16
    assert TokenForm(name="megatron").dtype_for(65500) == np.int32
    with pytest.raises(UsageError, match="ids up to 65,535, this vocabulary has 65,537"):
        TokenForm(name="raw", dtype="uint16").dtype_for(65537)


def test_checked_documents_have_the_references_ids(place: Path) -> None:
    tokenize(place, "checked.safetensors", "frames", "--check", "50")
    shared = toy_tokenizer()
    # Its own, as what follows breaks it.
    tokenizer = shared.with_content(shared.to_json())
    documents = [Document(b"", {}, "docs", n, f"d{n}", text) for n, text in enumerate(TEXTS)]
    right: Any = tokenizer.encode_batch

    def wrong(texts: list[str], *, parse_special: bool) -> list[np.ndarray]:
        found: list[np.ndarray] = right(texts, parse_special=parse_special)
        found[2][-1] += 1
        return found

    tokenizer.encode_batch = wrong  # type: ignore[method-assign,assignment]
    assert len(list(encode_each(documents, tokenizer, EncodeSettings(check=2)))) == len(TEXTS)
    with pytest.raises(InputError, match="--check: from token"):
        list(encode_each(documents, tokenizer, EncodeSettings(check=3)))
