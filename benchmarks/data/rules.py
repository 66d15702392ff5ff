"""`llm filter` beside datatrove: Gopher repetition and quality, C4 and FineWeb rules.

    python benchmarks/data/rules.py --data DIR [--limit N]

DIR holds corpora/{prose,code}.jsonl.zst. The first table: the four rules one after another on the
prose corpus, JSON lines to JSON lines, whole processes with start-up, one core, CPU seconds, ours
the median of some runs. Rows with x10 are of the corpus ten times over, where start-up weighs less;
datatrove's is computed: its start-up, measured on one document, and ten times the rest. The second:
on how many documents of each corpus the verdict with our words is not that of datatrove as it is,
with spaCy's, rule by rule and each rule alone (every eighth document).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import orjson
import zstandard

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import peer_environment, print_table, run_cpu

PEER = ["datatrove==0.10.1", "xxhash<4", "orjson", "spacy", "regex", "tokenizers"]
RULES = ("repetition", "gopher-quality", "c4", "fineweb")
EVERY = 8
TIMES = 10

PIPELINE = """
import sys

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import (
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

if __name__ == "__main__":
    source, work = sys.argv[1:]
    steps = [
        JsonlReader(source, compression=None), GopherRepetitionFilter(), GopherQualityFilter(),
        C4QualityFilter(), FineWebQualityFilter(), JsonlWriter(f"{work}/output", compression=None),
    ]
    LocalPipelineExecutor(steps, tasks=1, workers=1, logging_dir=f"{work}/logs").run()
"""

VERDICTS = """
import json
import sys

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter,
)

rules = [GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(), FineWebQualityFilter()]
for line in open(sys.argv[1], "rb"):
    text = json.loads(line)["text"]
    print(json.dumps([rule.filter(Document(text=text, id="")) is True for rule in rules]))
"""

LLM = [sys.executable, "-m", "llmtools", "filter"]


def read_lines(path: Path) -> list[bytes]:
    with open(path, "rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read().splitlines(True)


def count_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)


def compare_speed(lines: list[bytes], folder: Path, repeats: int) -> None:
    """Print the first table."""
    source = folder / "input" / "documents.jsonl"
    source.parent.mkdir()
    source.write_bytes(b"".join(lines))
    script = folder / "pipeline.py"
    script.write_text(PIPELINE)
    python = peer_environment("datatrove", PEER)
    peer = run_cpu([python, script, source.parent, folder])
    kept = count_lines(next((folder / "output").iterdir()))
    one = folder / "one" / "documents.jsonl"
    one.parent.mkdir()
    one.write_bytes(lines[0])
    start_s = run_cpu([python, script, one.parent, folder / "started"]).cpu_s
    tenfold = folder / "tenfold.jsonl"
    tenfold.write_bytes(b"".join(lines) * TIMES)
    megabytes = sum(len(orjson.loads(line)["text"].encode()) for line in lines) / 1e6
    rows: list[list[object]] = []
    for times, given in ((1, source), (TIMES, tenfold)):
        peer_s = start_s + times * (peer.cpu_s - start_s)
        runs = [("datatrove 0.10.1", peer_s, peer.peak_bytes, kept * times)]
        for words in ("unicode", "fast"):
            output = folder / f"{words}.jsonl"
            argv = [*LLM, given, "-fq", "--words", words, "--rules", ",".join(RULES), "-o", output]
            run_cpu(argv)  # Compiles the kernels where no earlier run has; a user pays that once.
            found = [run_cpu(argv) for _ in range(repeats)]
            cpu_s = statistics.median(run.cpu_s for run in found)
            peak = max(run.peak_bytes for run in found)
            runs.append((f"llm filter --words {words}", cpu_s, peak, count_lines(output)))
        for name, cpu_s, peak, num_kept in runs:
            size = times * megabytes
            shown = name if times == 1 else f"{name}, x{times}"
            row = [shown, times * len(lines), num_kept, size, cpu_s, peak / 1e6, size / cpu_s]
            rows.append([*row, peer_s / cpu_s])
    header = ["program", "documents", "kept", "text MB", "CPU s", "peak MB", "MB/CPU-s", "ratio"]
    print_table(header, rows)


def compare_verdicts(corpora: dict[str, list[bytes]], folder: Path) -> None:
    """Print the second table."""
    script = folder / "verdicts.py"
    script.write_text(VERDICTS)
    rows: list[list[object]] = []
    for corpus, lines in corpora.items():
        source = folder / f"{corpus}.jsonl"
        source.write_bytes(b"".join(lines))
        done = run_cpu([peer_environment("datatrove", PEER), script, source])
        theirs = [json.loads(line) for line in done.stdout.splitlines()]
        for words in ("unicode", "fast"):
            row: list[object] = [corpus, len(lines), words]
            for number, rule in enumerate(RULES):
                argv = [*LLM, source, "-q", "--annotate", "--words", words, "--rules", rule]
                found = [json.loads(line) for line in run_cpu(argv).stdout.splitlines()]
                ours = ["reject" not in record["metadata"] for record in found]
                differ = sum(a != b[number] for a, b in zip(ours, theirs, strict=True))
                row.append(f"{100 * differ / len(lines):.2f} %")
            rows.append(row)
    print_table(["corpus", "documents", "words", *RULES], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, metavar="N", help="the first N documents only")
    parser.add_argument("--repeats", type=int, default=3, help="ours: the median of so many runs")
    arguments = parser.parse_args()
    corpora = {
        name: read_lines(arguments.data / "corpora" / f"{name}.jsonl.zst")
        for name in ("prose", "code")
    }
    with tempfile.TemporaryDirectory() as folder:
        lines = corpora["prose"][: arguments.limit]
        compare_speed(lines, Path(folder), arguments.repeats)
        print()
        parts = {name: found[: arguments.limit][::EVERY] for name, found in corpora.items()}
        compare_verdicts(parts, Path(folder))


if __name__ == "__main__":
    main()
