"""Banding and clustering of ready signatures, beside datasketch and rensa; and of more than memory.

    python benchmarks/data/banding.py [--signatures N] [--peer-signatures N] [--spill N]

Synthetic signatures of 128 hashes, a tenth of them copies of others. Ours: bucket keys, sorting and
union-find, in 16 buckets of 8. The peers: query and insert of each signature in turn, on the first
N only, in documents a CPU-second. Making signatures is not timed anywhere. Then N signatures within
512 MB, keys spilled to disk, in a process of its own whose peak memory is printed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import peer_environment, print_table, run_cpu

PEER = """
import random
import sys
import time

from {module} import {signature}, {index}

count = int(sys.argv[1])
draw = random.Random(1)
made = []
for number in range(count):
    token = str(draw.randrange(number + 1) if draw.random() < 0.1 else number)
    one = {signature}({arguments})
    {update}
    made.append(one)
index = {index}({parameters})
start = time.process_time()
for number, one in enumerate(made):
    index.query(one)
    index.insert(number, one)
print(count / (time.process_time() - start))
"""
DATASKETCH = {
    "module": "datasketch",
    "signature": "MinHash",
    "index": "MinHashLSH",
    "arguments": "num_perm=128",
    "update": "one.update_batch([token.encode(), (token + 'x').encode()])",
    "parameters": "params=(16, 8), num_perm=128",
}
RENSA = {
    "module": "rensa",
    "signature": "RMinHash",
    "index": "RMinHashLSH",
    "arguments": "num_perm=128, seed=1",
    "update": "one.update([token, token + 'x'])",
    "parameters": "threshold=0.8, num_perm=128, num_bands=16",
}
OURS = """
import sys
import time

import numpy as np

from llmtools.data import cluster
from llmtools.data.bands import Bands
from llmtools.data.duplicates import PROCESS_BYTES
from llmtools.data.minhash import MinHashSettings, bucket_keys

count, memory = int(sys.argv[1]), int(sys.argv[2])
settings = MinHashSettings(num_buckets=16)
draw = np.random.default_rng(1)


def blocks(count):
    for start in range(0, count, 10_000):
        size = min(10_000, count - start)
        signatures = draw.integers(0, 2**32, (size, 128), dtype=np.uint64).astype(np.uint32)
        copies = draw.random(size) < 0.1
        signatures[copies] = signatures[draw.integers(0, size, int(copies.sum()))]
        yield start + np.arange(size), signatures


def run(count, limit):
    spent = 0.0
    with Bands(settings.num_buckets, limit) as bands:
        for documents, signatures in blocks(count):
            start = time.process_time()
            bands.add(documents, bucket_keys(signatures, settings))
            spent += time.process_time() - start
        start = time.process_time()
        parents = cluster.singletons(count)
        for band in range(settings.num_buckets):
            for documents, keys in bands.chunks(band):
                cluster.link_equal(parents, documents, keys)
        root = cluster.roots(parents)
        return spent + time.process_time() - start, int((root == np.arange(count)).sum())


run(1_000, None)
limit = (memory - PROCESS_BYTES) * 2 // 5 if memory else None
spent, kept = run(count, limit)
print(count / spent)
"""


def rate(argv: list[str | Path]) -> tuple[float, float]:
    """Documents a CPU-second as the program prints them, and its peak memory in MB."""
    measured = run_cpu(argv, {"OPENBLAS_NUM_THREADS": "1"})
    return float(measured.stdout), measured.peak_bytes / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--signatures", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--peer-signatures", type=int, default=200_000, metavar="N")
    parser.add_argument("--spill", type=int, default=10_000_000, metavar="N")
    arguments = parser.parse_args()
    ours = rate([sys.executable, "-c", OURS, str(arguments.signatures), "0"])
    rows = [["llmtools", arguments.signatures, *ours, 1.0]]
    for name, package, script in (
        ("datasketch 2.0.0", "datasketch==2.0.0", DATASKETCH),
        ("rensa 0.5.0", "rensa==0.5.0", RENSA),
    ):
        python = peer_environment(name.split()[0], [package])
        argv = [python, "-c", PEER.format(**script), str(arguments.peer_signatures)]
        found = rate(argv)
        rows.append([name, arguments.peer_signatures, *found, ours[0] / found[0]])
    start = time.perf_counter()
    spilled = rate([sys.executable, "-c", OURS, str(arguments.spill), str(512 << 20)])
    rows.append(["llmtools within 512 MB", arguments.spill, *spilled, ours[0] / spilled[0]])
    print_table(["program", "signatures", "docs/CPU-s", "peak MB", "ours is"], rows)
    print(f"the run within 512 MB took {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
