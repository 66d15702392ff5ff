"""Input that is hostile or odd: bombs, huge documents, text that is hardly text."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import zstandard

from faults.preloaded import Preloaded
from in_process import run_here
from llmtools.errors import InputError
from llmtools.formats import stream
from llmtools.formats.document import read_documents
from support import LLM, assert_user_error, run_llm
from toy_tokenizer import save_toy

GOOD = "these are some words that any rule lets pass because there are enough of them here"
# A document each; all but the last are text.
ODD = {
    "one character": "a" * 300_000,
    "one character and spaces": "a " * 300_000,
    "NULs": "\0" * 300_000,
    "NULs among words": f"{GOOD}\0 {GOOD[::-1]}\0",
    "right-to-left marks": f"\u202e{GOOD} \u200f\u202cשלום עולם\u2067",
    "nothing but marks": "\u202e\u200f\u2066" * 1000,
    "a byte order mark": "\ufeff"
    + "a mark stands before this text, which has other words than the rest",
    "line ends of all kinds": "one\r\ntwo\rthree\u2028four\u2029five\x0bsix\x85seven",
    "empty": "",
    "combining marks": "e" + "\u0301" * 100_000,
    "outside the first plane": "𝔘𝔫𝔦👩‍👩‍👧‍👦" * 1000,
}
SURROGATE = b'{"id": "s", "text": "\\ud800 alone"}\n'
COMMANDS = {
    "filter": ["--rules", "length", "--min-doc-words", "0", "--max-doc-words", "99999999"],
    "dedup": [],
    "tokenize": ["-t", "tok.json"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    save_toy(folder / "tok.json")
    with open(folder / "odd.jsonl", "wb") as out:
        for name, text in ODD.items():
            out.write(json.dumps({"id": name, "text": text}).encode() + b"\n")
        out.write(SURROGATE)
    return folder


def run(command: str, name: str, folder: Path, out: Path, *flags: str, check: bool = True):
    line = [command, name, *COMMANDS[command], "-o", out, "--json", *flags]
    return run_llm(*line, cwd=folder, check=check, timeout=600)


@pytest.mark.parametrize("command", COMMANDS)
def test_odd_texts_go_through_and_what_is_none_is_counted(command, folder, tmp_path):
    refused = run(command, "odd.jsonl", folder, tmp_path / "x", check=False)
    assert_user_error(refused, 3, f"odd.jsonl:{len(ODD) + 1}", "surrogate")
    assert not (tmp_path / "x").exists()
    out = tmp_path / "out.safetensors" if command == "tokenize" else tmp_path / "out.jsonl"
    kept = tmp_path / "kept"
    done = run(command, "odd.jsonl", folder, out, "--on-error", "skip", "--rejects", str(kept))
    counts = json.loads(done.stdout)
    assert counts["documents_skipped"] == 1
    assert counts.get("documents_in", counts.get("documents")) in (len(ODD), len(ODD) + 1)
    assert b"surrogate" in kept.read_bytes()
    if command == "tokenize":
        back = run_llm("detokenize", out, "-t", folder / "tok.json").stdout
        assert [json.loads(line)["text"] for line in back.splitlines()] == list(ODD.values())
        return
    found = {(r := json.loads(line))["id"]: r["text"] for line in out.read_bytes().splitlines()}
    assert found == {name: ODD[name] for name in found}
    # Nothing here is a copy of anything else.
    assert found.keys() == ODD.keys()


def big_document(path: Path, num_bytes: int) -> None:
    """Documents of that size and a small one, compressed to next to nothing."""
    sentence = " ".join(f"word{n} of a sentence that goes on" for n in range(1000)) + ". "
    text = sentence * (num_bytes // len(sentence))
    records = [{"id": "big", "text": text}, {"id": "small", "text": GOOD}]
    data = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    path.write_bytes(zstandard.ZstdCompressor().compress(data))


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_huge_document_is_a_document(command, folder, tmp_path):
    # Tokenizing runs at a few megabytes a second.
    big_document(tmp_path / "big.jsonl.zst", 15_000_000 if command == "tokenize" else 100_000_000)
    out = tmp_path / "out.safetensors" if command == "tokenize" else tmp_path / "out.jsonl"
    done = run(command, str(tmp_path / "big.jsonl.zst"), folder, out)
    counts = json.loads(done.stdout)
    assert counts.get("documents_kept", counts.get("documents")) == 2


@pytest.mark.soak
def test_a_document_of_100_mb_is_tokenized_in_bounded_memory(folder, tmp_path):
    big_document(tmp_path / "big.jsonl.zst", 100_000_000)
    line = f"tokenize {tmp_path}/big.jsonl.zst -t {folder}/tok.json -o {tmp_path}/out.safetensors"
    limited = ["bash", "-c", 'ulimit -v 6000000; exec "$@"', "sh", *LLM, *line.split()]
    subprocess.run(limited, check=True)


def test_a_word_too_long_to_be_encoded_is_refused_or_skipped(folder, tmp_path):
    with open(tmp_path / "long.jsonl", "w") as out:
        for text in ("x" * (9 << 20), GOOD):
            out.write(json.dumps({"text": text}) + "\n")
    name, out = str(tmp_path / "long.jsonl"), tmp_path / "out.safetensors"
    refused = run("tokenize", name, folder, out, check=False)
    assert_user_error(refused, 3, "long.jsonl:1: 9,437,184 characters without a place to cut")
    assert not out.exists()
    done = run("tokenize", name, folder, out, "--on-error", "skip")
    counts = json.loads(done.stdout)
    assert (counts["documents"], counts["documents_skipped"]) == (1, 1)


def write_bomb(path: Path, num_bytes: int, *, start: bytes = b"") -> None:
    """That many spaces without a line end, in a few kilobytes."""
    compress = zstandard.ZstdCompressor(level=9).compressobj()
    with open(path, "wb") as out:
        out.write(compress.compress(start))
        for _ in range(num_bytes >> 20):
            out.write(compress.compress(b" " * (1 << 20)))
        out.write(compress.flush())


def test_a_line_that_never_ends_is_refused_before_it_fills_memory(tmp_path, monkeypatch):
    # More than the blocks in which lines are looked for, inside which none can be too long.
    limit = 4 * stream.READ_BYTES
    monkeypatch.setattr(stream, "MAX_RECORD_BYTES", limit)
    for suffix, start, what in ((".jsonl", b"", "a line"), (".json", b"[", "a text or an array")):
        path = tmp_path / f"bomb{suffix}.zst"
        write_bomb(path, 2 * limit, start=start)
        with pytest.raises(InputError, match=rf"bomb.*{what} of more than {limit:,} bytes"):
            list(read_documents([str(path)]))
    (tmp_path / "text.txt").write_text("x" * limit)
    assert len(next(read_documents([str(tmp_path / "text.txt")])).text) == limit
    (tmp_path / "text.txt").write_text("x" * (limit + 1))
    with pytest.raises(InputError, match=r"text\.txt: a text or an array of more than"):
        list(read_documents([str(tmp_path / "text.txt")]))
    # The one that is too long is named.
    lines = b'{"text": "a"}\n' * 3 + b'{"text": "' + b"b" * limit + b'"}\n'
    (tmp_path / "lines.jsonl").write_bytes(lines)
    with pytest.raises(InputError, match=r"lines\.jsonl:4: a line of more than"):
        list(read_documents([str(tmp_path / "lines.jsonl")]))


def test_a_bomb_is_decompressed_a_little_at_a_time(tmp_path):
    """Of 2 GB in 64 kB, no more is ever in memory than a fraction."""
    write_bomb(tmp_path / "bomb.zst", 2 << 30)
    data = (tmp_path / "bomb.zst").read_bytes()
    assert len(data) < 200_000
    total = 0
    for piece, _, _ in stream.unzstd([data]):
        assert len(piece) <= 160 << 20
        total += len(piece)
    assert total == 2 << 30


@pytest.mark.soak
@pytest.mark.parametrize("command", COMMANDS)
def test_a_bomb_of_4_gb_ends_in_one_message(command, folder, tmp_path):
    write_bomb(tmp_path / "bomb.jsonl.zst", 4 << 30)
    with_server = Preloaded(tmp_path)
    try:
        argv = [command, str(tmp_path / "bomb.jsonl.zst"), *COMMANDS[command], "-o", "out"]
        ended = with_server.run(argv, cwd=folder, timeout_s=300, limit_bytes=4 << 30)
    finally:
        with_server.close()
    assert ended.code == 3, ended
    assert "bomb.jsonl.zst:1: a line of more than 1,073,741,824 bytes" in ended.message


def test_a_frame_that_needs_too_much_memory_is_refused(folder, tmp_path):
    settings = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    compress = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    data = compress.compress(b'{"text": "a"}\n') + compress.flush()
    (tmp_path / "wide.jsonl.zst").write_bytes(data)
    for flags in ([], ["--workers", "2"]):
        done = run_llm(
            "dedup" if not flags else "filter", tmp_path / "wide.jsonl.zst", "-o",
            tmp_path / "out.jsonl", *flags, check=False,
        )  # fmt: skip
        assert_user_error(done, 3, "wide.jsonl.zst: cannot decompress", "window is over 128 MiB")
        assert not (tmp_path / "out.jsonl").exists()


EMPTY = {
    "extract": "extract tree",
    "filter": "filter none.jsonl",
    "dedup": "dedup none.jsonl",
    "tokenize": "tokenize none.jsonl -t tok.json",
    "tokenizer train": "tokenizer train none.jsonl --vocab-size 300",
    "pack": "pack none.jsonl -t tok.json --seq-len 8",
    "run": "run --work-dir {work} 'filter none.jsonl | dedup -o {out}'",
}


@pytest.mark.parametrize("name", EMPTY)
def test_input_without_a_document_is_an_error(name, folder, tmp_path):
    (folder / "none.jsonl").write_bytes(b"\n \n")
    (folder / "tree").mkdir(exist_ok=True)
    work, out = str(tmp_path / "work"), str(tmp_path / "out")
    line = EMPTY[name].replace("'", "\0").split("\0")
    words = [*line[0].split(), *(part for part in line[1:] if part)]
    words = [word.format(work=work, out=out) for word in words]
    done = run_here(*words, *([] if name == "run" else ["-o", out]), cwd=folder)
    assert_user_error(done, 3)
    assert not Path(out).exists()


@pytest.mark.parametrize("name", [name for name in EMPTY if name != "extract"])
def test_a_wrong_text_key_is_an_error_that_names_the_right_one(name, folder, tmp_path):
    (folder / "good.jsonl").write_text(json.dumps({"text": GOOD}) + "\n")
    work, out = str(tmp_path / "work"), str(tmp_path / "out")
    line = EMPTY[name].replace("none.jsonl", "good.jsonl --text-key texd").replace("'", "\0")
    first, *rest = line.split("\0")
    for flags in ([], ["--on-error", "skip"]):
        words = [*first.split(), *(part for part in rest if part)]
        if name == "run":
            words[-1] = words[-1].replace("filter", " ".join(["filter", *flags]))
        else:
            words += ["-o", out, *flags]
        words = [word.format(work=f"{work}{len(flags)}", out=out) for word in words]
        done = run_here(*words, cwd=folder)
        assert_user_error(done, 3, "texd")
        assert not Path(out).exists()


def test_a_file_that_is_not_there_is_named_as_the_shell_would(tmp_path):
    docs = tmp_path / "docs.jsonl"
    docs.write_text('{"text": "a"}\n')
    semantic = ["dedup", docs, "--method", "semantic", "--vectors", "no.npy", "-o", tmp_path / "x"]
    for line in (semantic, ["why", "id", "no.npy"]):
        found = run_here(*line)
        assert_user_error(found, 3, "error: no.npy: No such file or directory")
