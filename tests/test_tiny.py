"""The whole pipe on a corner of the standard library: raw text to a quantized model's answer."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

from support import run_llm

MODEL = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
}


def report(*args: str | Path, cwd: Path, stdin: bytes = b"") -> dict:
    """The --json report of a command."""
    return json.loads(run_llm("--json", *args, cwd=cwd, stdin=stdin).stdout)


def test_raw_text_becomes_a_quantized_model_that_answers(tmp_path):
    source = Path(sysconfig.get_path("stdlib")) / "email"
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    documents = run_llm("extract", source, "--include", "*.py", cwd=tmp_path).stdout
    kept = run_llm("filter", "--rules", "length", cwd=tmp_path, stdin=documents).stdout
    # Everything twice, so that dedup has something to find.
    unique = run_llm("dedup", cwd=tmp_path, stdin=kept + kept).stdout
    assert sorted(unique.splitlines()) == sorted(kept.splitlines())
    (tmp_path / "unique.jsonl").write_bytes(unique)

    trained = report("tokenizer", "train", "unique.jsonl", "--vocab-size", "512",
                     "-o", "tokenizer.json", cwd=tmp_path)  # fmt: skip
    assert trained["vocab_size"] == 512
    frames = run_llm("tokenize", "unique.jsonl", "-t", "tokenizer.json", cwd=tmp_path).stdout
    again = run_llm("detokenize", "-t", "tokenizer.json", cwd=tmp_path, stdin=frames).stdout
    texts = [json.loads(line)["text"] for line in unique.splitlines()]
    assert [json.loads(line)["text"] for line in again.splitlines()] == texts
    packed = report("pack", "--seq-len", "128", "-o", "train", cwd=tmp_path, stdin=frames)
    assert packed["documents"] == len(texts)

    run_llm(
        "pretrain", "train", "--val", "train", "--model-config", "model.json", "--tokenizer",
        "tokenizer.json", "--max-steps", "40", "--batch-size", "8", "--learning-rate", "3e-3",
        "--threads", "1", "-o", "base", cwd=tmp_path,
    )  # fmt: skip
    metrics = [
        json.loads(line) for line in (tmp_path / "base/metrics.jsonl").read_text().splitlines()
    ]
    validation = [m["val_loss"] for m in metrics if "val_loss" in m]
    assert validation[-1] < validation[0] - 0.5

    chat = [
        {"messages": [{"role": "user", "content": f"Say {word}"},
                      {"role": "assistant", "content": word}]}
        for word in ("mail", "header", "parser", "policy") * 4
    ]  # fmt: skip
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(c) + "\n" for c in chat))
    run_llm(
        "finetune", "base", "chat.jsonl", "--adapter", "lora", "--max-steps", "10",
        "--threads", "1", "-o", "tuned", cwd=tmp_path,
    )  # fmt: skip
    run_llm("quantize", "tuned", "--scheme", "Q8_0", "-o", "tuned.gguf", cwd=tmp_path)

    perplexity = {
        model: report("eval", model, "--tasks", "perplexity", "--documents", "unique.jsonl",
                      "--limit-tokens", "2000", cwd=tmp_path)["results"]["perplexity"]["perplexity"]
        for model in ("base", "tuned", "tuned.gguf")
    }  # fmt: skip
    assert 1 < perplexity["base"] < 512
    assert abs(perplexity["tuned.gguf"] / perplexity["tuned"] - 1) < 0.02

    ask = (
        "generate",
        "tuned.gguf",
        "--chat",
        "Say mail",
        "--temperature",
        "0",
        "--max-tokens",
        "8",
    )
    answer = report(*ask, cwd=tmp_path)
    assert answer == {**report(*ask, cwd=tmp_path), "timings": answer["timings"]}
    assert 1 <= len(answer["token_ids"]) <= 8
