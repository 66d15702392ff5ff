"""`llm tokenizer train | tokenize | detokenize | pack`, as a user runs them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from llmtools.formats.packed import PackedDataset
from llmtools.formats.record import document_hash
from support import LLM, assert_user_error, run_llm
from toy_tokenizer import ADVERSARIAL, TEXTS, save_toy, toy_tokenizer


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    return save_toy(tmp_path / "tokenizer.json")


def jsonl(texts: list[str]) -> bytes:
    lines = (json.dumps({"id": f"d{at}", "text": text}) for at, text in enumerate(texts))
    return "".join(line + "\n" for line in lines).encode()


def texts_of(data: bytes) -> list[str]:
    return [json.loads(line)["text"] for line in data.splitlines()]


@pytest.mark.parametrize("flags", [[], ["--no-eos"], ["--parse-special"]])
def test_tokenize_and_detokenize_give_the_texts_back(
    tokenizer_file: Path, flags: list[str]
) -> None:
    frames = run_llm("tokenize", "-t", tokenizer_file, *flags, stdin=jsonl(ADVERSARIAL)).stdout
    back = run_llm("detokenize", "-t", tokenizer_file, stdin=frames).stdout
    assert texts_of(back) == ADVERSARIAL
    assert json.loads(back.splitlines()[3])["id"] == f"{document_hash('d3'):016x}"


def test_each_document_ends_with_eos_unless_told_otherwise(
    tokenizer_file: Path, tmp_path: Path
) -> None:
    for name, flags, ends in (("a", [], 2), ("b", ["--no-eos"], 0)):
        run_llm(
            "tokenize", "-t", tokenizer_file, "-o", tmp_path / name, *flags, stdin=jsonl(TEXTS[:2])
        )
        tokens = load_file(tmp_path / name / "tokens-00000.safetensors")["tokens"].tolist()
        assert tokens.count(0) == ends


def test_special_tokens_in_documents_are_text_unless_parsed(
    tokenizer_file: Path, tmp_path: Path
) -> None:
    for name, flags, count in (("a", [], 0), ("b", ["--parse-special"], 1)):
        out = tmp_path / f"{name}.safetensors"
        run_llm("tokenize", "-t", tokenizer_file, "-o", out, *flags, stdin=jsonl(["x<|im_end|>"]))
        assert load_file(out)["tokens"].tolist().count(2) == count


def test_a_pipe_from_documents_to_rows(tokenizer_file: Path, tmp_path: Path) -> None:
    source = tmp_path / "d.jsonl"
    source.write_bytes(jsonl(TEXTS))
    llm = " ".join(LLM)
    line = (
        f"{llm} tokenize {source} -t {tokenizer_file}"
        f" | {llm} pack --seq-len 16 -o {tmp_path / 'rows'} --json"
    )
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True)
    assert done.returncode == 0, done.stderr
    totals = json.loads(done.stdout)
    dataset = PackedDataset(tmp_path / "rows")
    assert totals["documents"] == len(TEXTS)
    assert totals["rows"] == dataset.num_rows
    assert dataset.tokenizer == toy_tokenizer().identity
    manifest = json.loads((tmp_path / "rows" / "manifest.json").read_bytes())
    assert manifest["counts"]["rows"] == dataset.num_rows


def test_trained_tokenizers_are_the_same_file_and_no_tokens_are_lost(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        done = run_llm(
            "tokenizer", "train", "--vocab-size", 300, "-o", tmp_path / name, "--json",
            stdin=jsonl(TEXTS),
        )  # fmt: skip
        assert json.loads(done.stdout)["documents"] == len(TEXTS)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json.manifest.json").is_file()
    frames = run_llm("tokenize", "-t", tmp_path / "a.json", stdin=jsonl(ADVERSARIAL)).stdout
    back = run_llm("detokenize", "-t", tmp_path / "b.json", stdin=frames).stdout
    assert texts_of(back) == ADVERSARIAL


def test_frames_of_another_tokenizer_are_refused_naming_both(
    tokenizer_file: Path, tmp_path: Path
) -> None:
    other = save_toy(tmp_path / "other.json", pattern="gpt4")
    frames = run_llm("tokenize", "-t", other, stdin=jsonl(TEXTS)).stdout
    identities = [toy_tokenizer().identity, toy_tokenizer("gpt4").identity]
    done = run_llm("detokenize", "-t", tokenizer_file, stdin=frames, check=False)
    assert_user_error(done, 3, *identities)
    ours = run_llm("tokenize", "-t", tokenizer_file, stdin=jsonl(TEXTS)).stdout
    rows = tmp_path / "rows"
    done = run_llm("pack", "--seq-len", 8, "-o", rows, stdin=ours + frames, check=False)
    assert_user_error(done, 3, *identities)
    assert not rows.exists()


def test_wrong_input_ends_in_one_message_and_leaves_nothing(
    tokenizer_file: Path, tmp_path: Path
) -> None:
    frames = run_llm("tokenize", "-t", tokenizer_file, stdin=jsonl(TEXTS)).stdout
    out = tmp_path / "out"
    pack = ["pack", "--seq-len", 8, "-o", out]
    with_tokenizer = ["-t", tokenizer_file]
    bare = ["tokenizer", "train", "-o", out, "--vocab-size"]
    cases: list[tuple[list[object], bytes, int, list[str]]] = [
        (["tokenize", *with_tokenizer, "-o", out], b'{"text": "a"}\n{"text"', 3, ["<stdin>:2"]),
        (["tokenize", *with_tokenizer, "-o", out], b'{"body": "a"}\n', 3, ["text", "--text-key"]),
        (["tokenize", *with_tokenizer, "-o", out], b"", 3, ["no documents"]),
        (["tokenize", "-t", tmp_path / "none.json"], b"", 3, ["none.json"]),
        (["tokenize", *with_tokenizer, "--bos"], jsonl(["a"]), 2, ["--bos"]),
        (["tokenize", *with_tokenizer, "--json"], jsonl(["a"]), 2, ["-o FILE"]),
        (["detokenize", *with_tokenizer, "-o", out], frames[:-1], 3, ["frame 0", "truncated"]),
        (["detokenize", *with_tokenizer, "-o", out], jsonl(["a"]), 3, ["not a safetensors file"]),
        (pack, frames[:-1], 3, ["truncated"]),
        (pack, jsonl(["a"]), 2, ["-t"]),
        (pack, b"", 3, ["no tokens in the input"]),
        (["pack", "--seq-len", 0, "-o", out], frames, 2, ["--seq-len"]),
        (["pack", "--seq-len", 8, "-o", "-"], frames, 2, ["-o DIR"]),
        ([*bare, 20], jsonl(TEXTS), 2, ["--vocab-size 20", "259"]),
        ([*bare, 300], b"", 3, ["no text"]),
        ([*bare, 300], b"{", 3, ["<stdin>:1"]),
    ]
    for arguments, stdin, code, mentions in cases:
        done = run_llm(*map(str, arguments), stdin=stdin, check=False)
        assert_user_error(done, code, *mentions)
        assert {p.name for p in tmp_path.iterdir()} == {"tokenizer.json"}, arguments


def test_an_existing_output_is_kept_unless_forced(tokenizer_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows"
    arguments = ["pack", "-t", tokenizer_file, "--seq-len", "8", "-o", out]
    run_llm(*arguments, stdin=jsonl(TEXTS))
    before = (out / "train-00000.safetensors").read_bytes()
    assert_user_error(run_llm(*arguments, stdin=jsonl(["a"]), check=False), 2, "rows", "-f")
    assert (out / "train-00000.safetensors").read_bytes() == before
    run_llm(*arguments, "-f", stdin=jsonl(["a"]))
    assert PackedDataset(out).num_rows == 1
