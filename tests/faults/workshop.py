"""One small run of every command that writes: its inputs, its arguments and its output."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from support import run_llm
from tiny_chat import save_base, write_chats
from tiny_evals import write_questions
from tiny_packed import write_config

WORDS = "the capital of a land is one town and other towns lie near its rivers or on a hill".split()


@dataclass(frozen=True)
class Job:
    """`llm ARGV` in the workshop; `{out}` stands for the output's path.

    out: the output's name. is_streaming: it writes to stdout as it goes where there is no -o.
    grows_in_place: its directory is there from the start and holds what a rerun goes on from.
    """

    argv: str
    out: str
    grows_in_place: bool = False
    is_streaming: bool = False

    def arguments(self, out: Path | str, *extra: str) -> list[str]:
        return [*(part.replace("{out}", str(out)) for part in self.argv.split()), *extra]


TRAIN = "--max-steps 6 --batch-size 2 --save-every 2 --dtype fp32"
JOBS = {
    "extract": Job("extract tree -o {out}", "documents.jsonl.zst", is_streaming=True),
    "filter": Job(
        "filter documents.jsonl --rules length --min-doc-words 30 --rejects {out}.no -o {out}",
        "kept.jsonl",
        is_streaming=True,
    ),
    "dedup": Job(
        "dedup documents.jsonl --rejects {out}.no -o {out}", "unique.jsonl", is_streaming=True
    ),
    "dedup sign": Job(
        "dedup documents.jsonl --phase sign --work-dir {out}", "work", grows_in_place=True
    ),
    "scorer train": Job(
        "scorer train documents.jsonl --order 3 -o {out}", "lm.safetensors"
    ),
    "score": Job(
        "score documents.jsonl --with given.safetensors -o {out}", "scored.jsonl", is_streaming=True
    ),
    "tokenizer train": Job(
        "tokenizer train documents.jsonl --vocab-size 400 -o {out}", "trained.json"
    ),
    "tokenize": Job(
        "tokenize documents.jsonl -t tokenizer.json -o {out}",
        "frames.safetensors",
        is_streaming=True,
    ),
    "tokenize into a directory": Job(
        "tokenize documents.jsonl -t tokenizer.json -o {out}", "frames"
    ),
    "detokenize": Job(
        "detokenize frames.safetensors -t tokenizer.json -o {out}", "texts.jsonl", is_streaming=True
    ),
    "pack": Job("pack frames.safetensors --seq-len 16 -o {out}", "packed"),
    "pack shuffled on disk": Job(
        "pack frames.safetensors --seq-len 16 --strategy best-fit --shuffle --epochs 2"
        " --memory 60K -o {out}",
        "packed",
    ),
    "pretrain": Job(
        f"pretrain rows --model-config model.json {TRAIN} -o {{out}}", "run", grows_in_place=True
    ),
    "finetune": Job(
        f"finetune base chats.jsonl --adapter lora {TRAIN} -o {{out}}", "tuned", grows_in_place=True
    ),
    "quantize": Job(
        "quantize base --scheme Q8_0 --documents short.jsonl -o {out}", "small.gguf"
    ),
    "eval": Job(
        "eval base --tasks hellaswag,perplexity --data hellaswag_val.jsonl"
        " --documents short.jsonl -o {out}",
        "results",
        grows_in_place=True,
    ),
}  # fmt: skip


def build(folder: Path) -> Path:
    """The inputs that JOBS names."""
    chance = random.Random(5)
    tree = folder / "tree"
    tree.mkdir()
    lines = []
    for number in range(300):
        text = " ".join(chance.choices(WORDS, k=chance.randint(10, 120)))
        (tree / f"{number:03d}.txt").write_text(text)
        lines.append({"id": f"d{number}", "text": text, "metadata": {"n": number}})
    lines += lines[:30]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "documents.jsonl").write_text(text)
    (folder / "short.jsonl").write_text("".join(text.splitlines(keepends=True)[:8]))
    save_base(folder / "base")
    (folder / "tokenizer.json").write_bytes((folder / "base" / "tokenizer.json").read_bytes())
    lm = ("scorer", "train", "short.jsonl", "--order", "2", "-o", "given.safetensors")
    run_llm(*lm, cwd=folder)
    frames = "frames.safetensors"
    run_llm("tokenize", "documents.jsonl", "-t", "tokenizer.json", "-o", frames, cwd=folder)
    run_llm("pack", frames, "--seq-len", "16", "-o", "rows", cwd=folder)
    write_config(folder / "model.json", vocab_size=400)
    write_chats(folder / "chats.jsonl", copies=2)
    write_questions(folder / "hellaswag_val.jsonl")
    return folder


# What a manifest and a line of metrics say of the machine and not of the work.
TIMES = {"wall_s", "cpu_s", "peak_memory_bytes", "argv", "tokens_per_s"}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, times left out of manifests, metrics and the like."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.name.endswith("manifest.json"):
                # What made the output, not the output.
                continue
            if path.name == "metrics.jsonl":
                lines = [json.loads(line) for line in data.splitlines()]
                data = json.dumps(
                    [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
                ).encode()
            found[str(path.relative_to(folder))] = data
    return found


def hidden(folder: Path) -> list[str]:
    """Temporaries that are left below a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob(".*"))
