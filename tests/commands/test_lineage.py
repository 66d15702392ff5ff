"""`llm inspect --lineage / --check` and `llm why` over a whole chain of real commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llmtools.formats.decisions import spans
from llmtools.formats.manifest import Recorder, drops_path
from llmtools.formats.packed import PackedDataset
from support import LLM, assert_user_error, run_llm
from tiny_chat import write_chats
from tiny_packed import CONFIG

WORDS = "the of and to in is it that was for on are as with his they at be this from".split()


def text(number: int, length: int = 60) -> str:
    chosen = [(number * 7 + at * at * (number + 3)) % len(WORDS) for at in range(length)]
    return " ".join(WORDS[at] for at in chosen)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw/ | extract, filter | dedup | tokenize | pack, pretrain, finetune, quantize, moved away.

    The pipe begins with a decompressed copy, so that only digests connect it to what came before.
    """
    home = tmp_path_factory.mktemp("chain")
    (home / "raw").mkdir()
    for number in range(12):
        (home / "raw" / f"{number:02d}.txt").write_text(text(number))
    (home / "raw" / "short.txt").write_text("too short")
    shutil.copy(home / "raw" / "03.txt", home / "raw" / "copy.txt")
    model = CONFIG | {"vocab_size": 300, "max_position_embeddings": 128}
    (home / "model.json").write_text(json.dumps(model))
    write_chats(home / "chat.jsonl")
    run_llm("extract", "raw", "-o", "docs.jsonl.gz", cwd=home)
    trained = ("--vocab-size", "290", "-o", "tok.json")
    run_llm("tokenizer", "train", "docs.jsonl.gz", *trained, cwd=home)
    llm = " ".join(LLM)
    pipe = (
        f"gzip -dc docs.jsonl.gz | {llm} filter --rules length | {llm} dedup"
        f" | {llm} tokenize -t tok.json | {llm} pack --seq-len 32 -o train"
    )
    subprocess.run(["bash", "-o", "pipefail", "-c", pipe], cwd=home, check=True)
    steps = ("--max-steps", "2", "--batch-size", "2")
    made = ("--model-config", "model.json", "--tokenizer", "tok.json")
    run_llm("pretrain", "train", *made, *steps, "-o", "base", cwd=home)
    run_llm("finetune", "base", "chat.jsonl", *steps, "--adapter", "lora", "-o", "tuned", cwd=home)
    run_llm("quantize", "tuned", "--scheme", "Q8_0", "-o", "tuned.gguf", cwd=home)
    (home / "elsewhere").mkdir()
    shutil.move(home / "tuned.gguf", home / "elsewhere" / "renamed.gguf")
    (home / "tuned.gguf.manifest.json").unlink()
    return home


def lineage(home: Path, artefact: str, *flags: str) -> dict[str, Any]:
    done = run_llm("inspect", artefact, "--lineage", "--json", *flags, cwd=home)
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def why(home: Path, document: str, artefact: str) -> list[dict[str, Any]]:
    done = run_llm("why", document, artefact, "--json", cwd=home)
    found: list[dict[str, Any]] = json.loads(done.stdout)["decisions"]
    return found


def test_a_renamed_gguf_is_traced_to_the_raw_text_through_pipes_and_copies(chain: Path) -> None:
    found = lineage(chain, "elsewhere/renamed.gguf")
    commands = [step["command"] for step in found["steps"]]
    assert sorted(commands) == sorted(
        [
            *("quantize", "finetune", "pretrain", "pack", "tokenize", "dedup", "filter"),
            *("tokenizer train", "extract"),
        ]
    )
    raw = {i["path"] for s in found["steps"] for i in s["inputs"] if i["made_by"] is None}
    assert raw == {"raw", "model.json", "chat.jsonl"}
    shown = run_llm("inspect", "elsewhere/renamed.gguf", "--lineage", cwd=chain).stdout.decode()
    assert shown.count("llm extract raw -o docs.jsonl.gz") == 2
    assert shown.count("llm extract raw -o docs.jsonl.gz (above)") == 1
    assert "raw  [raw]" in shown


def test_an_unchanged_lineage_checks_and_one_changed_byte_does_not(chain: Path) -> None:
    artefact = "elsewhere/renamed.gguf"
    assert lineage(chain, artefact, "--check")["check"]["changed"] == []
    for path in ("train/train-00000.safetensors", "raw/05.txt", artefact):
        place = chain / path
        good = place.read_bytes()
        place.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        done = run_llm("inspect", artefact, "--check", cwd=chain, check=False)
        place.write_bytes(good)
        assert_user_error(done, 1, path.partition("/")[0])
    (chain / "docs.jsonl.gz").rename(chain / "gone")
    missing = lineage(chain, artefact, "--check")["check"]["missing"]
    (chain / "gone").rename(chain / "docs.jsonl.gz")
    assert [Path(path).name for path in missing] == ["docs.jsonl.gz"]


def test_without_the_store_the_lineage_says_what_it_cannot_know(
    chain: Path, tmp_path: Path
) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    done = run_llm("inspect", "train", "--lineage", cwd=chain, env=env)
    assert "<stdin>  [origin unknown" in done.stdout.decode()
    done = run_llm(
        "inspect", "elsewhere/renamed.gguf", "--lineage", cwd=chain, env=env, check=False
    )
    assert_user_error(done, 3, "renamed.gguf", "no manifest")


def test_every_decision_on_a_document_is_told(chain: Path) -> None:
    artefact = "elsewhere/renamed.gguf"
    (dropped,) = why(chain, "short.txt", artefact)
    assert dropped == {
        "verdict": "dropped",
        "command": "llm filter --rules length",
        "rule": "length: doc_words",
        "value": 2.0,
    }
    (copy,) = why(chain, "copy.txt", artefact)
    assert (copy["verdict"], copy["rule"], copy["twin"]) == ("dropped", "exact", "03.txt")
    (kept,) = why(chain, "03.txt", artefact)
    dataset = PackedDataset(chain / "train")
    (first, last), *more = kept["rows"]
    assert not more and kept["verdict"] == "packed"
    ids = {int(id) for n in range(first, last + 1) for id in dataset.row(n).segment_document_ids}
    before = {int(id) for n in range(first) for id in dataset.row(n).segment_document_ids}
    assert len(ids - before) >= 1 and kept["tokens"] > 60
    assert_user_error(
        run_llm("why", "never-seen.txt", artefact, cwd=chain, check=False), 1, "never-seen.txt"
    )


def test_the_same_commands_give_the_same_model_bytes(chain: Path, tmp_path: Path) -> None:
    again = chain / "again.gguf"
    run_llm("quantize", "tuned", "--scheme", "Q8_0", "-o", again, cwd=chain)
    assert again.read_bytes() == (chain / "elsewhere" / "renamed.gguf").read_bytes()


def test_a_circle_of_manifests_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    for reads, writes in (("a", "b"), ("b", "a")):
        recorder = Recorder("copy", {"to": writes})
        Path(reads).write_text("same bytes")
        Path(writes).write_text("same bytes")
        recorder.read_path(Path(reads))
        recorder.outputs = recorder.inputs
        recorder.write_beside(writes)
    found = lineage(tmp_path, "a")
    assert len(found["steps"]) == 2


@pytest.mark.parametrize("content", ["", "[]", "{", '{"inputs": 5}', '{"inputs": [{"path": 1}]}'])
def test_a_malformed_manifest_is_no_bug_of_ours(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "x.jsonl.manifest.json").write_text(content)
    done = run_llm("inspect", tmp_path / "x.jsonl", "--lineage", check=False)
    assert_user_error(done, 3, "x.jsonl")


def test_filtering_twice_is_two_steps_though_the_bytes_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "a", "text": text(1)}) + "\n")
    run_llm("filter", "in.jsonl", "--rules", "length", "-o", "one.jsonl", cwd=tmp_path)
    run_llm("filter", "one.jsonl", "--rules", "symbols", "-o", "two.jsonl", cwd=tmp_path)
    assert os.stat(tmp_path / "two.jsonl").st_size == os.stat(tmp_path / "in.jsonl").st_size
    steps = lineage(tmp_path, "two.jsonl")["steps"]
    rules = [list(step["settings"]["rules"]) for step in steps]
    assert rules == [["symbols"], ["length"]]


def test_rows_are_told_as_runs() -> None:
    assert spans([1, 2, 3, 7, 9, 10]) == ((1, 3), (7, 7), (9, 10))
    assert spans([]) == ()


def test_a_drop_log_goes_with_the_output_that_had_it(tmp_path):
    docs, out = tmp_path / "docs.jsonl", tmp_path / "out.jsonl"
    docs.write_text('{"text": "a b c"}\n{"text": "a"}\n')
    base = ["filter", docs, "--rules", "length", "-o", out, "-f", "--min-doc-words"]
    run_llm(*base, 2)
    assert drops_path(out).exists()
    run_llm(*base, 1)
    assert not drops_path(out).exists()
