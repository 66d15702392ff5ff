"""`llm dedup` beside rensa and datatrove on documents with known near-duplicates.

    python benchmarks/data/minhash.py --data DIR [--documents N] [--peer-documents N] [--rounds R]

DIR holds corpora/{prose,code,multiling}.jsonl.zst, of which near_copies.py makes the corpus. All
read the same JSON lines and write JSON lines, as whole processes with start-up included, on one
core. rensa has no shingles of its own, so its script makes them with Python, lower-cased words
split at white space; 128 permutations, 16 bands, its clusters by union-find over all hits.
datatrove takes its default parameters and its four stages, on the first N documents. Recall is the
share of pairs with Jaccard >= 0.8 that are in one cluster, precision the share of pairs in one
cluster that have it, chains counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import near_copies
import numpy as np

from dedup import run_peer as run_datatrove
from harness import Measurement, cache_dir, peer_environment, print_table, run_cpu

RENSA = """
import json
import sys

import orjson
from rensa import RMinHash, RMinHashLSH


def shingles(text):
    words = text.lower().split()
    return [" ".join(words[i : i + 5]) for i in range(len(words) - 4)]


def find(parents, x):
    while parents[x] != x:
        parents[x] = parents[parents[x]]
        x = parents[x]
    return x


source, output, clusters = sys.argv[1:]
index = RMinHashLSH(threshold=0.8, num_perm=128, num_bands=16)
parents = []
with open(source, "rb") as lines, open(output, "wb") as kept:
    for number, line in enumerate(lines):
        signature = RMinHash(num_perm=128, seed=1)
        signature.update(shingles(orjson.loads(line)["text"]))
        hits = index.query(signature)
        index.insert(number, signature)
        parents.append(number)
        for hit in hits:
            x, y = find(parents, number), find(parents, hit)
            parents[max(x, y)] = min(x, y)
        if not hits:
            kept.write(line)
with open(clusters, "w") as file:
    json.dump([find(parents, x) for x in range(len(parents))], file)
"""


def corpus(data: Path, num_documents: int) -> tuple[Path, Path]:
    """The documents, and their shingle sets and true pairs, made once.

    In a process of its own: a child's peak memory is never measured below its parent's.
    """
    folder = cache_dir() / f"near-copies-{num_documents}"
    documents, truth = folder / "documents.jsonl", folder / "truth.npz"
    if not truth.exists():
        print(f"making {num_documents:,} documents in {folder}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        maker = multiprocessing.Process(
            target=near_copies.write, args=(data, num_documents, documents, truth)
        )
        maker.start()
        maker.join()
        if maker.exitcode:
            sys.exit("the documents could not be made")
    return documents, truth


def text_bytes(source: Path, limit: int | None = None) -> int:
    """Bytes of the first texts of a file."""
    with open(source, "rb") as lines:
        return sum(
            len(json.loads(line)["text"].encode()) for line in itertools.islice(lines, limit)
        )


def run_ours(source: Path, folder: Path, *flags: str) -> Measurement:
    argv = [sys.executable, "-m", "llmtools", "dedup", source, "-f", "-q"]
    return run_cpu([*argv, *flags, "-o", folder / "kept.jsonl"])


def our_clusters(source: Path, folder: Path, count: int, *flags: str) -> np.ndarray:
    """The cluster of each document, numbered by the survivor."""
    rejects = folder / "rejects.jsonl"
    run_ours(source, folder, "--cluster-ids", "--rejects", str(rejects), *flags)
    clusters = np.arange(count)
    for path in (folder / "kept.jsonl", rejects):
        with open(path, "rb") as lines:
            for line in lines:
                fields = json.loads(line)
                clusters[int(fields["id"])] = int(fields["metadata"]["cluster"])
    return clusters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=100_000, metavar="N")
    parser.add_argument("--peer-documents", type=int, default=20_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    source, truth_file = corpus(arguments.data, arguments.documents)
    megabytes = text_bytes(source) / 1e6
    count = arguments.documents
    rensa = peer_environment("rensa", ["rensa==0.5.0", "orjson"])

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "peer.py"
        script.write_text(RENSA)
        found = folder / "clusters.json"
        peer_argv = [rensa, script, source, folder / "peer.jsonl", found]
        run_ours(source, folder)  # Compiles the kernels where no earlier run has.
        ours, theirs = [], []
        for _ in range(arguments.rounds):
            ours.append(run_ours(source, folder))
            theirs.append(run_cpu(peer_argv))
        small = folder / "input" / "documents.jsonl"
        small.parent.mkdir()
        with open(source, "rb") as lines, open(small, "wb") as file:
            file.writelines(itertools.islice(lines, arguments.peer_documents))
        slow, _ = run_datatrove(small.parent, folder)
        slow_megabytes = text_bytes(small) / 1e6
        run_ours(source, folder, "--verify-jaccard", "0.8")  # As above.
        verified = run_ours(source, folder, "--verify-jaccard", "0.8")
        clusters = {
            "llm dedup": our_clusters(source, folder, count),
            "llm dedup --verify-jaccard 0.8": our_clusters(
                source, folder, count, "--verify-jaccard", "0.8"
            ),
            "rensa 0.5.0": np.array(json.loads(found.read_bytes())),
        }

    truth = np.load(truth_file)
    own_s = statistics.median(one.cpu_s for one in ours)
    peer_s = statistics.median(one.cpu_s for one in theirs)
    rows = [
        ("llm dedup", count, megabytes, own_s, ours[0].peak_bytes / 1e6),
        (
            "  --verify-jaccard 0.8",
            count,
            megabytes,
            verified.cpu_s,
            verified.peak_bytes / 1e6,
        ),
        ("rensa 0.5.0", count, megabytes, peer_s, theirs[0].peak_bytes / 1e6),
        (
            "datatrove 0.10.1",
            arguments.peer_documents,
            slow_megabytes,
            slow.cpu_s,
            slow.peak_bytes / 1e6,
        ),
    ]
    print_table(
        ["program", "documents", "text MB", "CPU s", "peak MB", "MB/CPU-s", "ours is"],
        [[*row, row[2] / row[3], (megabytes / own_s) / (row[2] / row[3])] for row in rows],
    )
    each = sorted(b.cpu_s / a.cpu_s for a, b in zip(ours, theirs, strict=True))
    print(f"rensa's CPU by ours, round by round: {', '.join(f'{ratio:.2f}' for ratio in each)}")
    print(f"{len(truth['pairs']):,} true pairs")
    print_table(
        ["program", "clusters", "recall", "precision"],
        [
            [
                name,
                np.unique(found).size,
                *(
                    f"{value:.4f}"
                    for value in near_copies.recall_and_precision(
                        found, truth["pairs"], truth["sets"], truth["offsets"]
                    )
                ),
            ]
            for name, found in clusters.items()
        ],
    )


if __name__ == "__main__":
    main()
