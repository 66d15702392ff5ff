"""What lineage costs a dedup run: its CPU seconds beside those of the same run without it.

    python benchmarks/lineage.py --data DIR [--rounds N]

DIR holds corpora/prose.jsonl.zst. "Without" is the same program with hashing, manifests, the store
and the drop log replaced by nothing, as nobody can switch them off. Both run in turn; medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from harness import print_table, run_cpu

WITHOUT = """
import sys
import xxhash

class NoHash:
    def update(self, data): pass
    def hexdigest(self): return "0" * 32

# xxh3_128() hashes streams; exact duplicates are found by xxh3_128_digest, which stays.
xxhash.xxh3_128 = NoHash

from llmtools.formats import drop_log, manifest

manifest.Recorder.write_beside = lambda self, *outputs: None
drop_log.DropLog.add_twins = lambda self, *arrays: None

from llmtools.cli import main

main(sys.argv[1:])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    corpus = options.data / "corpora" / "prose.jsonl.zst"
    with tempfile.TemporaryDirectory() as folder:
        env = {"XDG_STATE_HOME": f"{folder}/state"}
        command = ["dedup", corpus, "-q", "-f", "-o", f"{folder}/out.jsonl"]
        sides = {
            "with": [sys.executable, "-m", "llmtools", *command],
            "without": [sys.executable, "-c", WITHOUT, *command],
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(options.rounds + 1):
            for name, argv in sides.items():
                cpu_s = run_cpu(argv, env).cpu_s
                # The first round fills caches of files and compiled code.
                if number:
                    times[name].append(cpu_s)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print_table(
        ("dedup of the prose corpus", "CPU s"), [(f"{n} lineage", m) for n, m in medians.items()]
    )
    print(f"ratio of medians {medians['with'] / medians['without']:.3f}, asked: at most 1.03")


if __name__ == "__main__":
    main()
