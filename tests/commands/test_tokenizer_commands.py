"""`llm tokenizer train | extend | compare`: their files load elsewhere, their answers add up."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from in_process import run_here
from llmtools.tokenizer.load import load_tokenizer
from support import assert_user_error
from tiny_chat import save_base
from toy_tokenizer import ADVERSARIAL, TEXTS, save_toy, toy_tokenizer

POLISH = "Zażółć gęślą jaźń, żółw i zając piszą wiersze. "


def documents(path: Path, texts: list[str], **fields: str) -> Path:
    lines = (json.dumps({"text": text, **fields}) + "\n" for text in texts)
    path.write_text("".join(lines))
    return path


def run(*words: str | Path) -> dict:
    done = run_here(*map(str, words), "--json")
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout) if done.stdout else {}


@pytest.mark.parametrize("model", ["bpe", "wordpiece", "unigram", "word", "char"])
def test_what_is_trained_loads_in_transformers_and_encodes_alike(
    model: str, tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    docs = documents(tmp_path / "docs.jsonl", TEXTS)
    out = tmp_path / "tokenizer.json"
    summary = run("tokenizer", "train", docs, "--vocab-size", 400, "--model", model, "-o", out)
    peer = PreTrainedTokenizerFast(tokenizer_file=str(out))
    ours = load_tokenizer(out)
    assert summary["vocab_size"] == ours.vocab_size == len(peer)
    assert summary["fertility"]["all"]["bytes"] == len("".join(TEXTS[:3]).encode()) * 3
    for text in TEXTS:
        assert peer.encode(text, add_special_tokens=False) == ours.encode(text)
    if model in ("bpe", "char"):
        assert [ours.decode(ours.encode(text)) for text in TEXTS] == TEXTS


def test_the_exported_ranks_alone_encode_alike(tmp_path: Path) -> None:
    docs = documents(tmp_path / "docs.jsonl", TEXTS)
    out = tmp_path / "t.json"
    flags = ["--vocab-size", 420, "--export", "tiktoken", "--report", tmp_path / "report.json"]
    run("tokenizer", "train", docs, *flags, "-o", out)
    lines = (tmp_path / "t.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in lines}
    ours = load_tokenizer(out)
    assert len(ranks) == ours.vocab_size - 3

    def encode(word: bytes) -> list[int]:
        parts = [word[i : i + 1] for i in range(len(word))]
        while len(parts) > 1:
            joined = [ranks.get(a + b, 1 << 30) for a, b in itertools.pairwise(parts)]
            if (best := min(joined)) == 1 << 30:
                break
            at = joined.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [ranks[part] for part in parts]

    for word in (" capital", "Paris", "日本語", " Italy", "\n\n", "é"):
        assert encode(word.encode()) == ours.encode(word)
    assert json.loads((tmp_path / "report.json").read_bytes())["all"]["documents"] == len(TEXTS)


def test_the_exported_gguf_vocabulary_encodes_alike(tmp_path: Path) -> None:
    docs = documents(tmp_path / "docs.jsonl", TEXTS)
    out = tmp_path / "t.json"
    flags = ["--vocab-size", 420, "--export", "gguf", "--pattern", "qwen2"]
    run("tokenizer", "train", docs, *flags, "-o", out)
    ours, again = load_tokenizer(out), load_tokenizer(tmp_path / "t.gguf")
    assert again.identity == ours.identity and again.eos_id == ours.eos_id
    assert [again.encode(t) for t in ADVERSARIAL] == [ours.encode(t) for t in ADVERSARIAL]


@pytest.mark.parametrize(
    ("words", "mention"),
    [
        ("--vocab-size 258", "take 259"),
        ("--vocab-size 4 --model word --special-tokens a,b", "needs <unk>"),
        ("--vocab-size 300 --export tiktoken --model word", "byte-level BPE only"),
        ("--vocab-size 20 --model wordpiece", "characters of"),
        ("--vocab-size 99999999999", "31 bits"),
        ("--vocab-size 300 --special-tokens a,,b", "empty or double"),
    ],
)
def test_what_cannot_be_is_refused(words: str, mention: str, tmp_path: Path) -> None:
    docs = documents(tmp_path / "docs.jsonl", TEXTS)
    out = str(tmp_path / "t.json")
    assert_user_error(
        run_here("tokenizer", "train", str(docs), *words.split(), "-o", out), 2, mention
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs.jsonl"]


@pytest.mark.parametrize("embeddings", ["mean", "focus"])
@pytest.mark.parametrize("is_tied", [False, True])
def test_an_extended_model_loads_in_transformers(
    embeddings: str, is_tied: bool, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = save_base(tmp_path / "base", tie_word_embeddings=is_tied)
    docs = documents(tmp_path / "docs.jsonl", [POLISH * 3] * 5)
    out = tmp_path / "out"
    flags = ["--add", 30, "--embeddings", embeddings, "-o", out]
    summary = run("tokenizer", "extend", base, docs, *flags)
    old, new = toy_tokenizer(), load_tokenizer(out)
    assert summary["new_tokens"] == 30 and new.vocab_size == old.vocab_size + 30
    peer = AutoTokenizer.from_pretrained(out)
    assert peer.encode(POLISH, add_special_tokens=False) == new.encode(POLISH)
    assert len(new.encode(POLISH)) < len(old.encode(POLISH))
    model = AutoModelForCausalLM.from_pretrained(out)
    before, after = (load_file(place / "model.safetensors") for place in (base, out))
    grown = [name for name in before if before[name].shape != after[name].shape]
    assert grown == ["lm_head.weight", "model.embed_tokens.weight"][is_tied:]
    table = model.get_input_embeddings().weight
    assert table.shape[0] == new.vocab_size == model.config.vocab_size
    for name in grown:
        assert torch.equal(after[name][: old.vocab_size], before[name])
    if embeddings == "mean":
        id = old.vocab_size
        pieces = old.encode(new.decode([id]))
        assert torch.allclose(table[id], table[pieces].mean(0), atol=1e-6)
    ids = torch.tensor([new.encode(POLISH)])
    assert torch.isfinite(model(ids).logits).all() and model(ids).logits.shape[-1] == len(table)


def test_extending_a_tokenizer_alone_gives_a_tokenizer(tmp_path: Path) -> None:
    docs = documents(tmp_path / "docs.jsonl", [POLISH] * 5)
    old, out = save_toy(tmp_path / "old.json"), tmp_path / "new.json"
    done = run_here("tokenizer", "extend", str(old), str(docs), "--add", "9", "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert load_tokenizer(out).vocab_size == load_tokenizer(old).vocab_size + 9
    line = ["tokenizer", "extend", str(old), str(docs), "--add", "9", "--embeddings", "focus"]
    assert_user_error(run_here(*line, "-o", str(tmp_path / "x")), 2, "--embeddings focus has no")


def test_tokenizers_are_compared_side_by_side(tmp_path: Path) -> None:
    docs = tmp_path / "docs.jsonl"
    parts = [
        documents(tmp_path / "a", TEXTS[:1], lang="en", source="wiki/1").read_text(),
        documents(tmp_path / "b", [POLISH], lang="pl", source="books/2").read_text(),
    ]
    docs.write_text("".join(parts))
    old, new = save_toy(tmp_path / "old.json"), tmp_path / "new.json"
    run("tokenizer", "extend", old, tmp_path / "b", "--add", 20, "-o", new)
    found = run("tokenizer", "compare", old, new, docs)["tokenizers"]
    for place, entry in zip((old, new), found, strict=True):
        tokenizer = load_tokenizer(place)
        assert entry["vocab_size"] == tokenizer.vocab_size
        assert entry["languages"]["pl"]["tokens"] == len(tokenizer.encode(POLISH))
        assert entry["sources"]["wiki"]["tokens"] == len(tokenizer.encode(TEXTS[0]))
        assert entry["all"]["bytes"] == len((TEXTS[0] + POLISH).encode())
    text = run_here("tokenizer", "compare", str(old), str(new), str(docs)).stdout.decode()
    assert "old.json" in text and "pl" in text and "books" in text
    # Columns are headed by names, the paths only where two have one name.
    assert str(tmp_path) not in text
    (tmp_path / "two").mkdir()
    same = save_toy(tmp_path / "two" / "old.json")
    text = run_here("tokenizer", "compare", str(old), str(same), str(docs)).stdout.decode()
    assert str(same) in text
    broken = json.loads(old.read_text())
    broken["model"]["vocab"] |= {"zzzzz": 7}
    same.write_text(json.dumps(broken))
    done = run_here("tokenizer", "compare", str(old), str(same), "/dev/stdin")
    assert_user_error(done, 3, "have the same id, 7")
    assert_user_error(run_here("tokenizer", "compare", str(docs)), 2, "at least one tokenizer")
