"""`llm tokenizer train` beside other trainers: a byte-level BPE vocabulary of 32,768 tokens.

    python benchmarks/tokens/train.py --data DIR [--corpus NAME]

DIR holds corpora/*.jsonl.zst: prose, code and text in 46 languages, 68 MB of JSON lines (64 MB of
text), each seen once; the input of all is that in one plain file. Programs are whole processes on
one thread, taken in turn: ours with manifest and digests, the `tokenizers` library fed by a plain
loop over the lines, rustbpe likewise with GPT-2's pattern, gigatoken reading the JSON lines itself,
and gigabpe, which reads text, given the texts alone. The library's merges and ours must be equal.
Medians of CPU time; peak memory is that of the process, and what training added to it: less the
peak of the same program on three words.
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
from harness import Measurement, peer_environment, print_table, run_cpu

VOCAB_SIZE = 32768
ONE_THREAD = {
    "RAYON_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_TEXTS = """
import sys, orjson

def texts():
    with open(sys.argv[1], "rb") as source:
        for line in source:
            yield orjson.loads(line)["text"]

"""
LIBRARY = f"""{_TEXTS}
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
built = Tokenizer(models.BPE())
built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
built.train_from_iterator(texts(), trainers.BpeTrainer(
    vocab_size={VOCAB_SIZE}, special_tokens=["<|endoftext|>"],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
built.save(sys.argv[2])
"""
RUSTBPE = f"""{_TEXTS}
import rustbpe
gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{{L}}+| ?\\p{{N}}+| ?[^\\s\\p{{L}}\\p{{N}}]+|\\s+(?!\\S)|\\s+"
rustbpe.Tokenizer().train_from_iterator(texts(), {VOCAB_SIZE}, pattern=gpt2)
"""
GIGATOKEN = f"""
import sys, gigatoken
gigatoken.train_bpe(gigatoken.JsonlFileSource([sys.argv[1]]), {VOCAB_SIZE}, ["<|endoftext|>"])
"""
GIGABPE = f"""
import sys, gigabpe
gigabpe.train_bpe([sys.argv[1]], {VOCAB_SIZE}, threads=1)
"""
PEERS = {
    "rustbpe": (["rustbpe==0.1.0", "orjson==3.11.4"], RUSTBPE),
    "gigatoken": (["gigatoken==0.10.0"], GIGATOKEN),
    "gigabpe": (["gigabpe==0.1.0"], GIGABPE),
}


def build(data: Path, corpus: str, lines: Path, plain: Path) -> int:
    """Write the corpora as JSON lines and as text; returns the bytes of text."""
    size = 0
    with open(lines, "wb") as json_lines, open(plain, "wb") as text:
        for path in sorted((data / "corpora").glob(f"{corpus}.jsonl.zst")):
            with open(path, "rb") as file:
                reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
                content = reader.read()
            json_lines.write(content)
            for line in content.splitlines():
                document = orjson.loads(line)["text"].encode()
                size += len(document)
                text.write(document + b"\n")
    return size


def merges(path: Path) -> list[list[str]]:
    found = json.loads(path.read_bytes())["model"]["merges"]
    return [m.split(" ") if isinstance(m, str) else m for m in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--corpus", default="*", help="one of DIR's alone, such as prose")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines, plain = folder / "documents.jsonl", folder / "documents.txt"
        size = build(arguments.data, arguments.corpus, lines, plain)
        ours, theirs = folder / "ours.json", folder / "theirs.json"
        command = [sys.executable, "-m", "llmtools", "tokenizer", "train", lines, "-q", "-f"]
        command += ["--vocab-size", str(VOCAB_SIZE), "--special-tokens", "<|endoftext|>"]
        programs = {
            "llm tokenizer train": [*command, "-o", ours],
            "tokenizers": [sys.executable, "-c", LIBRARY, lines, theirs],
        }
        for peer, (requirements, code) in PEERS.items():
            try:
                python = peer_environment(peer, requirements)
            except Exception as fault:
                print(f"{peer} is left out, it could not be installed: {fault}", file=sys.stderr)
                continue
            programs[peer] = [python, "-c", code, plain if peer == "gigabpe" else lines]
        few, few_plain = folder / "few.jsonl", folder / "few.txt"
        few.write_bytes(orjson.dumps({"text": "three short words"}) + b"\n")
        few_plain.write_bytes(b"three short words\n")
        small = {lines: few, plain: few_plain, ours: folder / "few.json", theirs: folder / "_.json"}
        floors = {}
        for program, argv in programs.items():
            start = [small.get(argument, argument) for argument in argv]
            # Ours is compiled where no earlier run has; a user pays that once.
            run_cpu(start, ONE_THREAD)
            floors[program] = run_cpu(start, ONE_THREAD).peak_bytes
        runs: dict[str, list[Measurement]] = {program: [] for program in programs}
        for _ in range(arguments.repeats):
            for program, argv in programs.items():
                runs[program].append(run_cpu(argv, ONE_THREAD))
        if merges(ours) != merges(theirs):
            sys.exit("the merges of llm and of the tokenizers library differ")
    seconds = {p: statistics.median(run.cpu_s for run in found) for p, found in runs.items()}
    peaks = {p: statistics.median(run.peak_bytes for run in found) for p, found in runs.items()}
    added = {program: peak - floors[program] for program, peak in peaks.items()}
    mine, my_added = seconds["llm tokenizer train"], added["llm tokenizer train"]
    print(f"{size / 1e6:.1f} MB of text, {VOCAB_SIZE} tokens; merges equal to the library's")
    print_table(
        ["program", "CPU s", "MB/s", "peak MB", "added MB", "its CPU / ours", "its added / ours"],
        [
            [p, s, size / 1e6 / s, peaks[p] / 1e6, added[p] / 1e6, s / mine, added[p] / my_added]
            for p, s in seconds.items()
        ],
    )


if __name__ == "__main__":
    main()
