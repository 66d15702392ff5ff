"""Packing speed: frames to packed shards, whole processes, beside TRL and a plain copy.

    python benchmarks/tokens/pack.py [--millions N] [--repeats N]

Documents of log-normal length (mean about 900 tokens), ids of 32 bits, rows of 2,049. The floor
reads the file, copies its tokens once and writes them: what no packer can be faster than. TRL's
pack_dataset maps the same ids from numpy files into an Arrow table, packs them with its defaults
(1,000 documents at a time) and saves the dataset: wrapped is our concat, bfd_split our best-fit.
Programs take turns. Start-up is a run on 1,000 documents; the rate without it is that of the other
documents.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import peer_environment, print_table, run_cpu
from llmtools.formats.output import open_output
from llmtools.formats.tokens import TokenFrame, Vocabulary, write_frame

LLM = (sys.executable, "-m", "llmtools")
FLOOR = """
import sys
import numpy as np
data = np.fromfile(sys.argv[1], np.uint8)
data.copy().tofile(sys.argv[2])
"""
TRL = """
import sys
import numpy as np
import pyarrow as pa
from datasets import Dataset, disable_progress_bars
from trl import pack_dataset
disable_progress_bars()
source, out, strategy = sys.argv[1:]
offsets = np.load(source + ".offsets.npy").astype(np.int32)
tokens = np.load(source + ".ids.npy", mmap_mode="r")
table = pa.table({"input_ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens))})
pack_dataset(Dataset(table), 2049, strategy).save_to_disk(out)
"""
TRL_STRATEGIES = {"trl wrapped": "wrapped", "trl bfd_split": "bfd_split"}
VARIANTS = {
    "concat": ["--strategy", "concat"],
    "best-fit": ["--strategy", "best-fit"],
    "bos-bestfit": ["--strategy", "bos-bestfit"],
    "concat, shuffled": ["--shuffle"],
    "concat, shuffled on disk": ["--shuffle", "--memory", "128M"],
}
FRAME_DOCUMENTS = 1000


def write_frames(path: Path, num_tokens: int) -> int:
    """A file of frames, and its ids and offsets for numpy; returns how many tokens it has."""
    draw = np.random.default_rng(0)
    vocabulary = Vocabulary(tokenizer="benchmark", vocab_size=100_000, bos=1, eos=0)
    written = 0
    all_ids, all_lengths = [], [np.zeros(1, np.int64)]
    with open_output(str(path)) as out:
        while written < num_tokens:
            lengths = np.maximum(1, draw.lognormal(6.2, 1.1, FRAME_DOCUMENTS)).astype(np.int64)
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            tokens = draw.integers(2, 100_000, offsets[-1]).astype(np.uint32)
            tokens[offsets[:-1]] = 1
            frame = TokenFrame(
                vocabulary=vocabulary,
                tokens=tokens,
                offsets=offsets,
                document_ids=draw.integers(1, 1 << 63, FRAME_DOCUMENTS).astype(np.uint64),
            )
            write_frame(out, frame)
            all_ids.append(tokens.view(np.int32))
            all_lengths.append(lengths)
            written += len(tokens)
    np.save(f"{path}.ids.npy", np.concatenate(all_ids))
    np.save(f"{path}.offsets.npy", np.cumsum(np.concatenate(all_lengths)))
    return written


def trl_python() -> Path | None:
    """The python of an environment with TRL (5.9 GB, with torch), None where it cannot be had."""
    try:
        return peer_environment("trl", ["trl==1.16.0"])
    except Exception as fault:
        print(f"TRL is left out, it could not be installed: {fault}", file=sys.stderr)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, default=100, help="tokens, in millions")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    python = trl_python()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        few, many = place / "few.safetensors", place / "many.safetensors"
        count = {few: write_frames(few, 1), many: write_frames(many, args.millions * 1_000_000)}
        taken: dict[tuple[str, Path], list[float]] = {}
        for repeat in range(args.repeats + 1):
            for source in (few, many):
                lines: dict[str, list[str | Path]] = {
                    "floor": [sys.executable, "-c", FLOOR, source, place / "copy"]
                }
                for name, flags in VARIANTS.items():
                    line = [*LLM, "pack", source, "--seq-len", "2048", *flags]
                    lines[name] = [*line, "-o", place / "rows", "-f", "-q"]
                for name, strategy in TRL_STRATEGIES.items() if python else ():
                    lines[name] = [python, "-c", TRL, source, place / "trl", strategy]
                for name, argv in lines.items():
                    cpu_s = run_cpu(argv).cpu_s
                    # The first round compiles kernels where nobody has run them before.
                    if repeat:
                        taken.setdefault((name, source), []).append(cpu_s)
        rows = []
        floor = statistics.median(taken["floor", many])
        for name in dict.fromkeys(name for name, _ in taken):
            start, whole = (statistics.median(taken[name, source]) for source in (few, many))
            rows.append(
                [
                    name,
                    f"{start:.2f}",
                    f"{whole:.2f}",
                    f"{count[many] / whole / 1e6:.0f}",
                    f"{(count[many] - count[few]) / max(whole - start, 1e-9) / 1e6:.0f}",
                    f"{whole / floor:.1f}",
                ]
            )
    print(f"{count[many]:,} tokens, medians of {args.repeats}, CPU of whole processes")
    header = ["", "start-up s", "CPU s", "M tokens/s", "without start-up", "x floor"]
    print_table(header, rows)


if __name__ == "__main__":
    main()
