"""n-gram language models: training, and scoring beside KenLM's Python query.

    python benchmarks/data/ngram_lm.py --data DIR [--limit N]

DIR holds corpora/prose.jsonl.zst; a model of order 5 is trained on every second document and scores
the others, JSON lines to JSON lines, as whole processes. KenLM 0.3.0 has no wheel: its package is
compiled, with a C++ compiler and cmake, or else left out. It reads our ARPA file, and the time of
that is taken off, as its binary would load at once. Its score of a document is what cc_net's code
computes. Both get lines that are normalised already, so that only the queries are compared, and
their perplexities must agree to 1e-4. The training peer is the dictionary reference of the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import orjson
import zstandard

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import Measurement, peer_environment, print_table, run_cpu

PEER = "kenlm==0.3.0"
PEER_SCRIPT = """
import sys
import orjson
import kenlm

model = kenlm.Model(sys.argv[1])
for line in open(sys.argv[2], "rb"):
    record = orjson.loads(line)
    total, words = 0.0, 0
    for sentence in record["text"].split("\\n"):
        if sentence.strip():
            total += model.score(sentence)
            words += len(sentence.split()) + 1
    value = 10 ** (-total / words) if words else None
    record["metadata"] = {"scores": {"perplexity": value}}
    sys.stdout.buffer.write(orjson.dumps(record) + b"\\n")
"""
REFERENCE_SCRIPT = """
import sys
import orjson
from ngram_reference import Reference

texts = [orjson.loads(line)["text"] for line in open(sys.argv[1], "rb")]
sentences = [line.split() for text in texts for line in text.split("\\n") if line.strip()]
Reference(sentences, 5)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None, help="documents at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        compare(options.data / "corpora" / "prose.jsonl.zst", Path(scratch), options.limit)


def compare(source: Path, work: Path, limit: int | None) -> None:
    from llmtools.data.ngram_text import normalise

    data = zstandard.ZstdDecompressor().stream_reader(source.read_bytes()).readall()
    records = [orjson.loads(line) for line in data.splitlines()[:limit]]
    halves = {"train": records[::2], "score": records[1::2]}
    for name, half in halves.items():
        rows = [{"id": r["id"], "text": normalise(r["text"], "ccnet").decode()} for r in half]
        (work / f"{name}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)) + b"\n")
    sizes = {
        name: sum(len(r["text"].encode()) for r in half) / 1e6 for name, half in halves.items()
    }
    llm = [sys.executable, "-m", "llmtools"]
    train = [*llm, "scorer", "train", work / "train.jsonl", "--normalize", "none", "-q", "-f", "-o"]
    # Compiles the kernels where no earlier run has; a user pays that once.
    run_cpu([*train, work / "lm.safetensors"])
    trained = run_cpu([*train, work / "lm.safetensors"])
    score = [*llm, "score", work / "score.jsonl", "--with", work / "lm.safetensors", "-q", "-f"]
    run_cpu([*score, "-o", work / "ours.jsonl"])
    scored = run_cpu([*score, "-o", work / "ours.jsonl"])
    rows = [
        row("train, order 5", "llm scorer train", sizes["train"], trained),
        row("score", "llm score", sizes["score"], scored),
    ]
    few = records[: max(1, len(halves["train"]) // 20)]
    (work / "few.jsonl").write_bytes(b"\n".join(map(orjson.dumps, few)) + b"\n")
    few_mb = sum(len(r["text"].encode()) for r in few) / 1e6
    tests = Path(__file__).parents[2] / "tests"
    slow = run_cpu(
        [sys.executable, "-c", REFERENCE_SCRIPT, work / "few.jsonl"], {"PYTHONPATH": str(tests)}
    )
    rows.append(row("train, order 5", f"dictionaries ({few_mb:.1f} MB)", few_mb, slow))
    try:
        peer = peer_environment("kenlm", [PEER, "orjson"])
    except subprocess.CalledProcessError:
        print("KenLM is left out: its package could not be compiled here", file=sys.stderr)
    else:
        run_cpu([*train, work / "lm.arpa"])
        loaded = run_cpu([peer, "-c", PEER_SCRIPT, work / "lm.arpa", os.devnull])
        theirs = run_cpu([peer, "-c", PEER_SCRIPT, work / "lm.arpa", work / "score.jsonl"])
        check_agreement(work / "ours.jsonl", theirs.stdout)
        theirs = replace(theirs, cpu_s=theirs.cpu_s - loaded.cpu_s)
        rows.append(row("score", PEER, sizes["score"], theirs))
        print(f"score: {theirs.cpu_s / scored.cpu_s:.1f} times as fast as KenLM's Python query")
    print_table(["work", "program", "MB", "CPU s", "MB/s", "peak MB"], rows)


def row(work: str, program: str, megabytes: float, found: Measurement) -> list[str]:
    return [
        work,
        program,
        f"{megabytes:.1f}",
        f"{found.cpu_s:.2f}",
        f"{megabytes / found.cpu_s:.1f}",
        f"{found.peak_bytes / 1e6:.0f}",
    ]


def check_agreement(ours: Path, theirs: bytes) -> None:
    """End the benchmark where the two sides gave another document another perplexity."""
    furthest = 0.0
    pairs = zip(ours.read_bytes().splitlines(), theirs.splitlines(), strict=True)
    for a, b in pairs:
        one, two = (json.loads(x)["metadata"]["scores"]["perplexity"] for x in (a, b))
        if (one is None) != (two is None):
            sys.exit("one side has a perplexity where the other has none")
        if one is not None:
            furthest = max(furthest, abs(one - two) / one)
    print(f"perplexities agree to {furthest:.1e}")
    if furthest > 1e-4:
        sys.exit("the two sides disagree")


if __name__ == "__main__":
    main()
