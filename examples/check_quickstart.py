"""What the quickstart made, as a table, and whether it is what it should be (exit 1 if not).

python examples/check_quickstart.py demo-out
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from llmtools.terminal import format_table

MIN_NATS_BELOW_UNIGRAM = 1.5
MAX_Q8_0_PERPLEXITY_CHANGE = 0.005


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def validation_losses(run: Path) -> list[float]:
    """Every validation loss of a run, in order."""
    steps = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [step["val_loss"] for step in steps if step.get("val_loss") is not None]


def unigram_entropy(packed: Path) -> float:
    """Entropy in nats of the token frequencies of packed shards: the loss of knowing them alone."""
    shards = sorted(packed.glob("train-*.safetensors"))
    tokens = np.concatenate([load_file(shard)["input_ids"].reshape(-1) for shard in shards])
    frequencies = np.bincount(tokens) / tokens.size
    frequencies = frequencies[frequencies > 0]
    return float(-(frequencies * np.log(frequencies)).sum())


def megabytes(path: Path) -> str:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return f"{sum(p.stat().st_size for p in files) / 1e6:.1f} MB"


def main() -> None:
    out = Path(sys.argv[1])
    perplexity = {
        name: read_json(out / f"eval-{name}.json")["results"]["perplexity"]["perplexity"]
        for name in ("base", "tuned", "tuned-q8_0.gguf", "tuned-q4_0.gguf")
    }
    entropy = unigram_entropy(out / "train")
    base_losses, tuned_losses = validation_losses(out / "base"), validation_losses(out / "tuned")
    generated = read_json(out / "generated.json")["text"]
    served = read_json(out / "served.json")["choices"][0]["message"]["content"]

    def count(name: str) -> int:
        with open(out / name, "rb") as file:
            return sum(1 for _ in file)

    rows = [
        ("extract", "raw.jsonl", f"{count('raw.jsonl')} documents, {megabytes(out / 'raw.jsonl')}"),
        ("filter", "clean.jsonl", f"{count('clean.jsonl')} documents"),
        ("dedup", "unique.jsonl", f"{count('unique.jsonl')} documents"),
        ("tokenizer", "tokenizer.json", megabytes(out / "tokenizer.json")),
        ("pack", "train/", f"{read_json(out / 'pack.json')['rows']} rows of 256"),
        (
            "pretrain",
            "base/",
            f"validation loss {base_losses[-1]:.3f} nats (unigram entropy {entropy:.3f})",
        ),
        (
            "finetune",
            "tuned/",
            f"held-out loss {tuned_losses[0]:.3f} -> {tuned_losses[-1]:.3f} nats",
        ),
        *(
            ("quantize", f"{name}", f"{megabytes(out / name)}, perplexity {perplexity[name]:.3f}")
            for name in ("tuned-q8_0.gguf", "tuned-q4_0.gguf")
        ),
        (
            "eval",
            "eval-tuned",
            f"perplexity {perplexity['tuned']:.3f} (base {perplexity['base']:.3f})",
        ),
        ("generate", "generated.json", repr(generated[:60])),
        ("serve", "served.json", repr(served[:60])),
    ]
    print(format_table(("stage", "made", "what it is"), rows))
    print(f"\nThe loss curve is {out / 'loss.png'}.")

    change = perplexity["tuned-q8_0.gguf"] / perplexity["tuned"] - 1
    checks = {
        f"validation loss is {entropy - base_losses[-1]:.2f} nats below the unigram entropy "
        f"(at least {MIN_NATS_BELOW_UNIGRAM})": entropy - base_losses[-1] >= MIN_NATS_BELOW_UNIGRAM,
        "held-out instruction loss fell": tuned_losses[-1] < tuned_losses[0],
        f"Q8_0 changes perplexity by {change:+.3%} (at most {MAX_Q8_0_PERPLEXITY_CHANGE:.1%})": abs(
            change
        )
        <= MAX_Q8_0_PERPLEXITY_CHANGE,
        "the HTTP answer equals `llm generate`": served == generated and bool(generated),
        "every number is finite": all(map(math.isfinite, perplexity.values())),
    }
    for claim, holds in checks.items():
        print(f"{'ok  ' if holds else 'FAIL'}  {claim}")
    sys.exit(0 if all(checks.values()) else 1)


if __name__ == "__main__":
    main()
