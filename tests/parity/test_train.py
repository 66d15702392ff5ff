"""Our training loop against transformers' Llama in a plain loop: same weights, rows and AdamW.

20 steps on packed rows of several documents; the peer sees every document alone. Tolerances, both
in fp32 with other summation orders: loss 1e-4 absolute, gradient norm 1e-3 relative at every step.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from llmtools.formats.packed import PackedDataset
from llmtools.model import Decoder, config_from_hf, save_model
from llmtools.train.pretrain import PretrainInputs, pretrain
from llmtools.train.settings import TrainSettings
from tiny_packed import CONFIG, write_packed

LOSS_TOLERANCE = 1e-4
NORM_TOLERANCE = 1e-3
STEPS = 20
WEIGHT_DECAY = 0.1
CLIP = 0.5


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """The folder with the initial model and the rows, and the metrics of our run."""
    folder = tmp_path_factory.mktemp("train")
    decoder = Decoder(config_from_hf(CONFIG | {"initializer_range": 0.1}, "test"))
    decoder.initialize(seed=1)
    (folder / "start").mkdir()
    save_model(folder / "start", decoder)
    write_packed(folder / "train")
    settings = TrainSettings(
        max_steps=STEPS,
        batch_size=2,
        grad_accum=3,
        learning_rate=1e-2,
        min_lr_ratio=0.1,
        lr_schedule="cosine",
        warmup_steps=4,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIP,
        dtype="fp32",
        seed=1,
        save_every=STEPS,
    )
    inputs = PretrainInputs(
        packed=folder / "train",
        val=None,
        model_config=None,
        init=folder / "start",
        tokenizer=None,
        output=folder / "run",
        device="cpu",
        resume=True,
        force=False,
        resume_command="",
    )
    pretrain(inputs, settings)
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return folder, [json.loads(line) for line in lines]


def documents(dataset: PackedDataset, rows: list[int]) -> list[torch.Tensor]:
    """The documents of some rows that have a token to predict."""
    found: list[torch.Tensor] = []
    for index in rows:
        row = dataset.row(index)
        ids = torch.from_numpy(row.input_ids.astype("int64"))
        found += [d for d in ids.split(row.segment_lengths.tolist()) if len(d) > 1]
    return found


def peer_losses(
    folder: Path, metrics: list[dict], *, beta2: float = 0.95, mean_of_means: bool = False
) -> tuple[list[float], list[float]]:
    """Loss and gradient norm of each step of a plain loop around transformers' model."""
    model = LlamaForCausalLM.from_pretrained(folder / "start").train()
    dataset = PackedDataset(folder / "train")
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, beta2))
    losses, norms = [], []
    for line in metrics:
        batch = documents(dataset, line["rows"])
        num_labels = sum(len(document) - 1 for document in batch)
        total = torch.zeros(())
        for document in batch:
            logits = model(document[None, :-1]).logits[0]
            share = len(batch) * (len(document) - 1) if mean_of_means else num_labels
            total = total + F.cross_entropy(logits, document[1:], reduction="sum") / share
        optimizer.zero_grad()
        total.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        for group in optimizer.param_groups:
            group["lr"] = line["learning_rate"]
        optimizer.step()
        losses.append(total.item())
    return losses, norms


def largest_differences(metrics: list[dict], losses: list[float], norms: list[float]):
    loss = max(abs(m["loss"] - theirs) for m, theirs in zip(metrics, losses, strict=True))
    norm = max(abs(m["grad_norm"] / n - 1) for m, n in zip(metrics, norms, strict=True))
    return loss, norm


def test_twenty_steps_equal_a_plain_loop_around_transformers(ours):
    folder, metrics = ours
    loss, norm = largest_differences(metrics, *peer_losses(folder, metrics))
    assert loss < LOSS_TOLERANCE and norm < NORM_TOLERANCE
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.3
    assert any(line["grad_norm"] > CLIP for line in metrics), "clipping was never put to the test"


def test_another_beta_or_another_normalisation_would_be_noticed(ours):
    """The broken twins of the check above."""
    folder, metrics = ours
    loss, _ = largest_differences(metrics, *peer_losses(folder, metrics, beta2=0.96))
    assert loss > LOSS_TOLERANCE
    _, norm = largest_differences(metrics, *peer_losses(folder, metrics, mean_of_means=True))
    assert norm > NORM_TOLERANCE


def test_transformers_loads_what_was_trained(ours):
    folder, _ = ours
    step = folder / "run" / f"step-{STEPS:06d}"
    model, report = LlamaForCausalLM.from_pretrained(step, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.config.tie_word_embeddings is True
