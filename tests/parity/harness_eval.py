"""Runs lm-evaluation-harness' hf backend over local files: harness_eval.py MODEL_DIR GGUF LIMIT
TASK.yaml=FILE.jsonl ... Prints one JSON object: task -> metrics and samples.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    folder, name, limit, *tasks = sys.argv[1:]
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    backend = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    configs = []
    for task in tasks:
        file, _, data = task.partition("=")
        config = yaml.safe_load(Path(file).read_text())
        configs.append(config | {"dataset_kwargs": {"data_files": {"train": data}}})
    found = simple_evaluate(
        backend, tasks=configs, limit=int(limit), log_samples=True, bootstrap_iters=100
    )
    out = {
        task: {
            "results": found["results"][task],
            "samples": [
                {
                    "prompts": [list(pair) for pair in _pairs(sample["arguments"])],
                    "scores": [list(one[0]) for one in sample["resps"]],
                }
                for sample in samples
            ],
        }
        for task, samples in found["samples"].items()
    }
    print(json.dumps(out))


def _pairs(arguments: object) -> list[tuple[str, str]]:
    if isinstance(arguments, dict):
        return [(one["arg_0"], one["arg_1"]) for one in arguments.values()]
    return [(one[0], one[1]) for one in arguments]  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
