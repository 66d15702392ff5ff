"""What is damaged, how, and which commands read it."""

from __future__ import annotations

import base64
import gzip
import os
import random
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zstandard

from faults.workshop import build
from fuzz import mutate
from fuzz.mutate import Mutator
from support import run_llm
from tiny_fasttext import write_model


@dataclass(frozen=True)
class Target:
    """A file of the bench to damage, and the commands that read it.

    is_wish: its sizes are what the user asks for, and no file can prove them wrong.
    """

    file: str
    mutator: Mutator
    commands: tuple[str, ...]
    is_wish: bool = False


DOCUMENTS = (
    "filter {} --rules length,repetition,symbols --annotate --rejects no.jsonl -o out.jsonl",
    "dedup {} --cluster-ids --rejects no.jsonl -o out.jsonl",
    "tokenize {} -t tokenizer.json -o out.safetensors",
    "pack {} -t tokenizer.json --seq-len 16 -o out",
    "tokenizer train {} --vocab-size 300 -o out.json",
    "inspect {}",
)
READ_MODEL = (
    "inspect {}",
    "eval {} --tasks perplexity --documents short.jsonl --limit-tokens 200",
    "generate {} hello --max-tokens 3",
    "generate {} hello --chat --max-tokens 3",
    "quantize {} --scheme Q4_0 -o out.gguf",
)
RANKED = "tokenize short.jsonl -t bytes.gpt2.tiktoken -o out.safetensors"
PIECES = "tokenize short.jsonl -t spm.model -o out.safetensors"
TRAIN = "--max-steps 3 --batch-size 2 --dtype fp32 -o"


def _commands(templates: tuple[str, ...], subject: str) -> tuple[str, ...]:
    return tuple(template.format(subject) for template in templates)


MODEL = _commands(READ_MODEL, "base")
TUNE = (f"finetune base chats.jsonl --adapter lora {TRAIN} out",)
RESUME = (f"pretrain rows --model-config model.json {TRAIN} run", "inspect run", *(
    _commands(READ_MODEL[:3], "run")
))  # fmt: skip

TARGETS = {
    "documents": Target("short.jsonl", mutate.in_lines, _commands(DOCUMENTS, "short.jsonl")),
    "documents in gzip": Target(
        "short.jsonl.gz",
        mutate.compressed("gz", mutate.in_lines),
        _commands(DOCUMENTS, "short.jsonl.gz"),
    ),
    "documents in zstd": Target(
        "short.jsonl.zst",
        mutate.compressed("zst", mutate.in_lines),
        _commands(DOCUMENTS, "short.jsonl.zst"),
    ),
    "files to extract": Target("tree/000.txt", mutate.in_bytes, ("extract tree -o out.jsonl",)),
    "conversations": Target("chats.jsonl", mutate.in_lines, TUNE),
    "token frames": Target(
        "few.safetensors",
        mutate.in_safetensors,
        (
            "pack few.safetensors --seq-len 16 -o out",
            "detokenize few.safetensors -t tokenizer.json -o out.jsonl",
            "inspect few.safetensors",
        ),
    ),
    "packed shards": Target(
        "rows/train-00000.safetensors",
        mutate.in_safetensors,
        (f"pretrain rows --model-config model.json {TRAIN} out", "inspect rows"),
    ),
    "weights": Target("base/model.safetensors", mutate.in_safetensors, (*MODEL, *TUNE)),
    "config.json": Target("base/config.json", mutate.in_json, (*MODEL, *TUNE)),
    "config to train": Target(
        "model.json",
        mutate.in_json,
        (f"pretrain rows --model-config model.json {TRAIN} out",),
        is_wish=True,
    ),
    "tokenizer.json": Target(
        "base/tokenizer.json",
        mutate.in_json,
        ("tokenize short.jsonl -t base -o out.safetensors", *MODEL[1:], *TUNE),
    ),
    "ranks": Target("bytes.gpt2.tiktoken", mutate.in_bytes, (RANKED,)),
    "sentencepiece": Target("spm.model", mutate.in_bytes, (PIECES,)),
    "tokenizer_config.json": Target(
        "base/tokenizer_config.json", mutate.in_json, (*MODEL[2:], *TUNE)
    ),
    "generation_config.json": Target(
        "base/generation_config.json", mutate.in_json, (*MODEL[2:], *TUNE)
    ),
    "chat template": Target("base/chat_template.jinja", mutate.in_template, (MODEL[3], *TUNE)),
    "GGUF": Target("small.gguf", mutate.in_gguf, _commands(READ_MODEL, "small.gguf")),
    "adapter weights": Target(
        "tuned/adapter_model.safetensors", mutate.in_safetensors, _commands(READ_MODEL, "tuned")
    ),
    "adapter_config.json": Target(
        "tuned/adapter_config.json", mutate.in_json, _commands(READ_MODEL, "tuned")
    ),
    "fastText model": Target(
        "lid.ftz",
        mutate.in_bytes,
        (
            "filter short.jsonl --rules language --languages en --language-threshold 0"
            " --lid-model lid.ftz -o out.jsonl",
            "score short.jsonl --with lid.ftz -o out.jsonl",
        ),
    ),
    "regression": Target(
        "rating.safetensors",
        mutate.in_safetensors,
        ("score short.jsonl --with rating.safetensors -o out.jsonl",),
    ),
    "vectors": Target(
        "vectors.npy",
        mutate.in_bytes,
        (
            "scorer train short.jsonl --kind regression --label-key metadata.n"
            " --vectors vectors.npy -o out.safetensors",
        ),
    ),
    "run.toml": Target("run/run.toml", mutate.in_text, RESUME[:2]),
    "metrics.jsonl": Target("run/metrics.jsonl", mutate.in_lines, RESUME[:2]),
    "latest": Target("run/latest", mutate.in_text, RESUME),
    "optimizer state": Target(
        "run/step-000002/state/optimizer.safetensors", mutate.in_safetensors, RESUME[:2]
    ),
    "place in the data": Target("run/step-000002/state/place.json", mutate.in_json, RESUME[:2]),
    "manifest": Target(
        "rows/manifest.json",
        mutate.in_json,
        (
            "inspect rows",
            "inspect rows --lineage",
            "inspect rows --check",
            "why d1 rows",
            f"pretrain rows --model-config model.json {TRAIN} out",
        ),
    ),
    "language model": Target(
        "given.safetensors",
        mutate.in_safetensors,
        (
            "score short.jsonl --with given.safetensors -o out.jsonl",
            "inspect given.safetensors",
        ),
    ),
    "settings": Target(
        "llmtools.toml",
        mutate.in_text,
        (
            "filter short.jsonl -o out.jsonl",
            "filter --show-config",
            "pack few.safetensors -o out",
            "tokenizer train short.jsonl -o out.json",
        ),
    ),
}

SETTINGS = """\
[filter]
rules = "length"
min-doc-words = 20
annotate = true

[pack]
seq-len = 16

[tokenizer.train]
vocab-size = 300
pattern = "gpt4"
"""


def build_bench(folder: Path) -> Path:
    """The workshop with small files of every kind that TARGETS names."""
    build(folder)
    short = (folder / "short.jsonl").read_bytes()
    (folder / "short.jsonl.gz").write_bytes(gzip.compress(short))
    (folder / "short.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(short))
    shutil.rmtree(folder / "rows")
    for path in sorted((folder / "tree").iterdir())[5:]:
        path.unlink()
    tokens = ("tokenize", "short.jsonl", "-t", "tokenizer.json", "-o", "few.safetensors")
    run_llm(*tokens, cwd=folder)
    run_llm("pack", "few.safetensors", "--seq-len", "16", "-o", "rows", cwd=folder)
    run_llm(*f"finetune base chats.jsonl --adapter lora {TRAIN} tuned".split(), cwd=folder)
    for name in ("chat_template.jinja", "generation_config.json"):
        source = folder / "tuned" / name
        if not (folder / "base" / name).exists() and source.exists():
            shutil.copyfile(source, folder / "base" / name)
    if not (folder / "base" / "generation_config.json").exists():
        text = '{"eos_token_id": [0, 2], "bos_token_id": 0, "temperature": 0.7, "top_p": 0.9}'
        (folder / "base" / "generation_config.json").write_text(text)
    run_llm("quantize", "base", "--scheme", "Q8_0", "-o", "small.gguf", cwd=folder)
    half = f"pretrain rows --model-config model.json {TRAIN} run".split()
    run_llm(*half[:-1], "run", "--save-every", "2", cwd=folder)
    (folder / "llmtools.toml").write_text(SETTINGS)
    write_model(
        folder / "lid.ftz", loss=1, minn=2, maxn=3, is_quantised=True, has_norms=True,
        is_pruned=True,
    )  # fmt: skip
    (folder / "bytes.gpt2.tiktoken").write_bytes(_ranks())
    (folder / "spm.model").write_bytes(_pieces())
    np.save(folder / "vectors.npy", np.random.default_rng(0).normal(size=(8, 3)))
    rating = "scorer train short.jsonl --kind regression --label-key metadata.n"
    run_llm(*rating.split(), "--encoder", "base", "-o", "rating.safetensors", cwd=folder)
    # As a kill after step 2 leaves it.
    shutil.rmtree(folder / "run" / "step-000003")
    (folder / "run" / "latest").write_text("step-000002\n")
    return folder


def _ranks() -> bytes:
    """A rank file of all bytes and a few pairs."""
    tokens = [*(bytes([byte]) for byte in range(256)), b"th", b"the", b" a", b"in"]
    lines = (f"{base64.b64encode(t).decode()} {rank}\n" for rank, t in enumerate(tokens))
    return "".join(lines).encode()


def _pieces() -> bytes:
    """A BPE model of sentencepiece: three special pieces, all bytes, letters and a few pairs."""
    special = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]
    letters = ["\u2581", *"abcdefghijklmnopqrstuvwxyz", "th", "\u2581th", "in"]
    named = [*special, *((f"<0x{byte:02X}>", 6) for byte in range(256))]
    named += [(letter, 1) for letter in letters]
    out = b""
    for at, (name, kind) in enumerate(named):
        text = name.encode()
        piece = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", -at)
        piece += b"\x18" + bytes([kind])
        out += b"\x0a" + bytes([len(piece)]) + piece
    return out + b"\x12\x02\x18\x02" + b"\x1a\x04\x18\x01\x20\x00"


def copy_bench(bench: Path, place: Path) -> None:
    """A bench of hard links: only what a case replaces is its own."""
    shutil.copytree(bench, place, copy_function=os.link)


def damage(place: Path, target: Target, chance: random.Random) -> None:
    """Replace the target's file by a damaged one."""
    path = place / target.file
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(target.mutator(data, chance))
