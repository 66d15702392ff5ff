"""Our LoRA adapters against peft: logits after training, files both ways.

Tolerance 1e-5 absolute and relative: peft adds the adapter beside the weight, we merge it, in fp32.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from llmtools.adapters.load import load_any
from llmtools.model import PackedRows
from support import run_llm
from tiny_chat import save_base, write_chats

TOLERANCE = 1e-5
IDS = torch.arange(3, 40)

# peft 0.21 reads a property that transformers 5.23 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base model and an adapter that `llm finetune` made of it."""
    folder = tmp_path_factory.mktemp("lora")
    base, chats = save_base(folder / "base"), write_chats(folder / "chat.jsonl")
    run_llm(
        *("finetune", base, chats, "--adapter", "lora", "--lora-r", "4", "--lora-alpha", "12"),
        *("--max-steps", "8", "--learning-rate", "2e-2", "--threads", "1", "-o", folder / "tuned"),
    )
    return base, folder / "tuned"


def our_logits(model: Path) -> torch.Tensor:
    decoder = load_any(model)
    with torch.no_grad():
        return decoder.logits(decoder(IDS, PackedRows([len(IDS)])))


def peft_logits(base: Path, adapter: Path) -> torch.Tensor:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    with torch.no_grad():
        return model(IDS[None]).logits[0]


def test_a_trained_adapter_has_equal_logits_in_peft(tuned):
    base, adapter = tuned
    logits = our_logits(adapter)
    torch.testing.assert_close(logits, peft_logits(base, adapter), rtol=TOLERANCE, atol=TOLERANCE)
    assert (logits - our_logits(base)).abs().max() > 0.1, "the adapter learned nothing"


def test_another_scale_would_be_noticed(tuned):
    """The broken twin: alpha / r one part in a hundred off."""
    base, adapter = tuned
    file = adapter / "adapter_config.json"
    text = file.read_text()
    try:
        file.write_text(json.dumps(json.loads(text) | {"lora_alpha": 12.12}))
        theirs = peft_logits(base, adapter)
    finally:
        file.write_text(text)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(our_logits(adapter), theirs, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_an_adapter_that_peft_saved_has_equal_logits_here(tuned, tmp_path, use_rslora):
    base, _ = tuned
    config = PeftConfig(
        r=5, lora_alpha=7, target_modules="all-linear", use_rslora=use_rslora, task_type="CAUSAL_LM"
    )
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)
        theirs = model(IDS[None]).logits[0]
    model.save_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(
        our_logits(tmp_path / "theirs"), theirs, rtol=TOLERANCE, atol=TOLERANCE
    )
