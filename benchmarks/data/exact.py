"""`llm dedup --method exact` beside the least that such work can take, from .zst to .zst.

    python benchmarks/data/exact.py --data DIR

DIR holds corpora/*.jsonl.zst. The input is all of them in turn until it has 160 MB, zstd at level
1, a fourth of its documents copies. The floor is one plain loop: decompress, parse, hash the text,
write what is new at level 1; no ids, no checks, no digests of files, no manifest, and the output is
not synced. Both are whole processes and must keep the same records; their start-up, measured on the
first record alone, is shown, and the ratio with and without it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import zstandard

sys.path.insert(0, str(Path(__file__).parents[1]))
from harness import best_of, print_table

LEAST_BYTES = 160_000_000

FLOOR = """
import gc, io, sys
gc.disable()
import orjson, xxhash, zstandard

seen = set()
writer = zstandard.ZstdCompressor(level=1)
with open(sys.argv[1], "rb") as source, open(sys.argv[2], "wb") as sink:
    reader = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
    with writer.stream_writer(sink) as out:
        for line in io.BufferedReader(reader, 1 << 20):
            digest = xxhash.xxh3_128_digest(orjson.loads(line)["text"].encode())
            if digest not in seen:
                seen.add(digest)
                out.write(line)
"""


def content(path: Path) -> bytes:
    with open(path, "rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()


def build(data: Path, target: Path) -> tuple[int, int]:
    """Write the input; returns its documents and bytes."""
    own = [
        line
        for path in sorted((data / "corpora").glob("*.jsonl.zst"))
        for line in content(path).splitlines(True)
    ]
    lines = list(own)
    size = sum(map(len, lines))
    # In each turn a third of the documents come again, the others with a mark before their text.
    turn = 0
    while size < LEAST_BYTES:
        turn += 1
        for number, line in enumerate(own):
            if number % 3 == turn % 3:
                lines.append(line)
            else:
                end = line.rindex(b'"text"') + 6
                start = line.index(b'"', end) + 1
                lines.append(line[:start] + b"%d " % turn + line[start:])
            size += len(lines[-1])
            if size >= LEAST_BYTES:
                break
    target.write_bytes(zstandard.ZstdCompressor(level=1).compress(b"".join(lines)))
    return len(lines), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many runs, each")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, floor = folder / "in.jsonl.zst", folder / "floor.jsonl.zst"
        ours = folder / "ours.jsonl.zst"
        documents, size = build(arguments.data, source)
        command = [sys.executable, "-m", "llmtools", "dedup", "--method", "exact", source]
        command += ["--zstd-level", "1", "-q", "-f", "-o", ours]
        plain = [sys.executable, "-c", FLOOR, source, floor]
        runs = [
            ("floor", best_of(arguments.repeats, plain)),
            ("llm dedup", best_of(arguments.repeats, command)),
        ]
        kept = content(ours)
        if kept != content(floor):
            sys.exit("the floor and llm dedup keep different records")
        first = content(source).split(b"\n", 1)[0] + b"\n"
        source.write_bytes(zstandard.ZstdCompressor(level=1).compress(first))
        starts = [best_of(arguments.repeats, argv).cpu_s for argv in (plain, command)]
    loops = [run.cpu_s - start for (_, run), start in zip(runs, starts, strict=True)]
    rows = [
        [
            who,
            documents,
            kept.count(b"\n"),
            size / 1e6,
            run.cpu_s,
            start,
            runs[0][1].cpu_s / run.cpu_s,
            loops[0] / loop,
        ]
        for (who, run), start, loop in zip(runs, starts, loops, strict=True)
    ]
    header = ["program", "documents", "kept", "MB", "CPU s", "start-up s", "of floor", "in loop"]
    print_table(header, rows)


if __name__ == "__main__":
    main()
