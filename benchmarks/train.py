"""A training step against transformers' Llama of the same shape, batch and dtype.

12 M parameters, rows of 256 tokens, 16 a batch; forward, backward, clipping and a fused AdamW step
on one thread, in CPU seconds. Every round runs all of them, so that a busy machine disturbs all
alike; the ratio is the median of the rounds' ratios. Rows that hold one document are the
comparison. Rows packed with documents of many lengths are shown beside it: the peer trains them as
if they were one document, which is not the same computation.

    python benchmarks/train.py [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harness import print_table
from llmtools.model import Decoder, PackedRows, config_from_hf
from llmtools.train.optim import build_optimizer
from llmtools.train.settings import TrainSettings

SHAPE = {
    "vocab_size": 4096,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 256,
}
ROWS, SEQ_LEN = 16, 256
SETTINGS = TrainSettings(
    max_steps=1,
    batch_size=ROWS,
    learning_rate=1e-4,
    min_lr_ratio=0.1,
    lr_schedule="cosine",
    warmup_steps=0,
    weight_decay=0.1,
    dtype="fp32",
    seed=0,
    save_every=1,
)
TARGET = 0.97

Step = Callable[[], None]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, SHAPE["vocab_size"], (ROWS, SEQ_LEN + 1), generator=generator)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def optimize(model: torch.nn.Module, loss: Callable[[], torch.Tensor], dtype: torch.dtype) -> Step:
    """One step of training, the same for both."""
    optimizer = build_optimizer(model, SETTINGS)
    parameters = list(model.parameters())

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def our_step(dtype: torch.dtype, lengths: list[int]) -> Step:
    ids, labels = batch()
    decoder = Decoder(config_from_hf({"model_type": "llama", **SHAPE}, "benchmark"))
    decoder.initialize(seed=0)

    def loss() -> torch.Tensor:
        context = PackedRows(lengths)
        return decoder.loss(ids.view(-1), labels.view(-1), context) / labels.numel()

    return optimize(decoder, loss, dtype)


def peer_step(dtype: torch.dtype) -> Step:
    ids, labels = batch()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, use_cache=False)).train()

    def loss() -> torch.Tensor:
        logits = model(input_ids=ids).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    return optimize(model, loss, dtype)


def packed_lengths() -> list[int]:
    """Documents of 5 to 250 tokens that fill each row."""
    generator = torch.Generator().manual_seed(1)
    lengths: list[int] = []
    for _ in range(ROWS):
        left = SEQ_LEN
        while left:
            size = min(left, int(torch.randint(5, 251, (), generator=generator)))
            lengths.append(size)
            left -= size
    return lengths


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each step in each round."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            # The first round allocates optimizer state and warms caches.
            if round_number:
                times[name].append(time.process_time() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description="Training step, ours against transformers'.")
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        steps = {
            "ours": our_step(dtype, [SEQ_LEN] * ROWS),
            "peer": peer_step(dtype),
            "packed": our_step(dtype, packed_lengths()),
        }
        times = measure(steps, rounds)

        def ratio(name: str, times: dict[str, list[float]] = times) -> float:
            pairs = zip(times["peer"], times[name], strict=True)
            return statistics.median(peer / ours for peer, ours in pairs)

        speeds = [ROWS * SEQ_LEN / statistics.median(times[name]) for name in ("peer", "ours")]
        rows.append((str(dtype).removeprefix("torch."), *speeds, ratio("ours"), ratio("packed")))
    print_table(
        ("dtype", "transformers tok/CPU-s", "ours tok/CPU-s", "ratio", "ratio, packed rows"), rows
    )
    print(f"target: ratio at least {TARGET} at both dtypes")


if __name__ == "__main__":
    main()
