"""CPU time until a command line says something, beside the nearest tools'.

    python benchmarks/startup.py [--rounds N]

Medians of user + system time of whole processes, in turn. huggingface-hub is a dependency of ours;
lm-eval is installed in an environment of its own, and left out where the registry is out of reach.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from harness import peer_environment, print_table, run_cpu
from llmtools.cli import COMMANDS

PEER = "lm-eval==0.4.13"
LLM = str(Path(sys.executable).with_name("llm"))


def command_lines() -> dict[str, list[str]]:
    """What is measured, by the name it is shown under."""
    hf = str(Path(sys.executable).with_name("hf"))
    lines = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "llm --help": [LLM, "--help"],
        "llm --version": [LLM, "--version"],
    }
    for name, row in COMMANDS.items():
        words = [name, *list(row.verbs)[:1]]
        lines[f"llm {' '.join(words)} --help"] = [LLM, *words, "--help"]
    lines["hf --help"] = [hf, "--help"]
    try:
        peer = peer_environment("lm-eval", [PEER]).with_name("lm_eval")
        lines["lm_eval --help"] = [str(peer), "--help"]
    except subprocess.CalledProcessError:
        print(f"{PEER} cannot be installed here; its row is left out", file=sys.stderr)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    lines = command_lines()
    times: dict[str, list[float]] = {name: [] for name in lines}
    for number in range(options.rounds + 1):
        for name, argv in lines.items():
            cpu_s = run_cpu(argv).cpu_s
            # The first round reads files into the cache.
            if number:
                times[name].append(cpu_s)
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians["python -c pass"]
    rows = [(name, 1000 * m, m / base) for name, m in medians.items()]
    print_table(("command", "CPU ms", "x python"), rows)
    slowest = max((m, n) for n, m in medians.items() if n.startswith("llm ") and n.count(" ") > 1)
    print(f"llm --help {medians['llm --help'] / base:.2f}x python -c pass, asked: at most 2.5")
    print(f"slowest: {slowest[1]} {1000 * slowest[0]:.0f} ms, asked: at most 150")


if __name__ == "__main__":
    main()
