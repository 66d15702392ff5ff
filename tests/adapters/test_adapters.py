"""LoRA layers, adapter files, and what a MODEL argument resolves to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmtools.adapters.inject import inject_lora, lora_tensors, target_modules
from llmtools.adapters.load import base_of, load_any, tokenizer_path_for
from llmtools.adapters.lora import LoraConfig
from llmtools.adapters.peft_files import read_adapter, write_adapter
from llmtools.errors import InputError, UsageError
from llmtools.model import Decoder, PackedRows, load_model
from tiny_chat import save_base

IDS = torch.arange(3, 20)


def logits(decoder: Decoder) -> torch.Tensor:
    with torch.no_grad():
        return decoder.logits(decoder(IDS, PackedRows([len(IDS)])))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_base(tmp_path / "base")


def save_random_adapter(folder: Path, base: Path, named: str | None = None, **changes) -> Decoder:
    """An adapter with random A and B; returns the decoder that it was injected into."""
    decoder = load_model(base)
    config = inject_lora(decoder, LoraConfig(r=3, alpha=5.0, **changes), seed=1)
    generator = torch.Generator().manual_seed(2)
    for tensor in lora_tensors(decoder).values():
        tensor.normal_(0, 0.2, generator=generator)
    folder.mkdir()
    write_adapter(folder, lora_tensors(decoder), config, named or str(base))
    return decoder.eval()


def test_a_fresh_adapter_changes_nothing_and_is_all_that_trains(base):
    decoder = load_model(base)
    before = logits(decoder)
    inject_lora(decoder, LoraConfig(r=4))
    assert torch.equal(logits(decoder), before)
    trainable = {name for name, p in decoder.named_parameters() if p.requires_grad}
    assert trainable == lora_tensors(decoder).keys()
    assert len(trainable) == 2 * 7 * 2


@pytest.mark.parametrize("rank_scaled", [False, True])
def test_merging_equals_running_the_adapter_beside_the_weight(base, tmp_path, rank_scaled):
    injected = save_random_adapter(tmp_path / "adapter", base, rank_scaled=rank_scaled)
    merged = load_any(tmp_path / "adapter")
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(logits(merged), logits(injected), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(merged), logits(load_model(base)), atol=1e-2)


def test_adapter_files_round_trip(base, tmp_path):
    decoder = save_random_adapter(tmp_path / "adapter", base, target_modules=("q_proj", "up_proj"))
    adapter = read_adapter(tmp_path / "adapter")
    assert adapter.base == str(base)
    assert adapter.config == LoraConfig(r=3, alpha=5.0, target_modules=("q_proj", "up_proj"))
    pairs = {f"{layer}.lora_A.weight": a for layer, (a, _) in adapter.layers.items()}
    pairs |= {f"{layer}.lora_B.weight": b for layer, (_, b) in adapter.layers.items()}
    assert pairs.keys() == lora_tensors(decoder).keys()
    assert all(torch.equal(pairs[name], t) for name, t in lora_tensors(decoder).items())


def test_targets_are_all_layers_or_those_named(base):
    decoder = load_model(base)
    every = target_modules(decoder, "all-linear")
    assert set(every) == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    assert target_modules(decoder, "v_proj, q_proj,v_proj") == ("v_proj", "q_proj")
    for wrong in ("lm_head", "", "q_prj"):
        with pytest.raises(UsageError, match="--lora-target"):
            target_modules(decoder, wrong)


def test_the_base_is_named_beside_or_given(base, tmp_path):
    save_random_adapter(tmp_path / "adapter", base, named="/gone/base")
    assert base_of(tmp_path / "adapter") == base
    save_random_adapter(tmp_path / "lost", base, named="/gone/other")
    with pytest.raises(InputError, match=r"/gone/other is not there.*--base"):
        base_of(tmp_path / "lost")
    assert load_any(tmp_path / "lost", base=base).config == load_model(base).config
    with pytest.raises(InputError, match="cannot be an adapter"):
        base_of(tmp_path / "lost", tmp_path / "adapter")
    with pytest.raises(InputError, match="not an adapter"):
        load_any(base, base=base)


def test_the_tokenizer_lies_with_the_adapter_or_its_base(base, tmp_path):
    save_random_adapter(tmp_path / "adapter", base)
    assert tokenizer_path_for(tmp_path / "adapter") == base
    assert tokenizer_path_for(base) == base
    (tmp_path / "adapter" / "tokenizer.json").write_text("{}")
    assert tokenizer_path_for(tmp_path / "adapter") == tmp_path / "adapter"


def test_an_adapter_of_another_base_is_refused_by_its_shapes(base, tmp_path):
    other = save_base(tmp_path / "other", hidden_size=64)
    save_random_adapter(tmp_path / "adapter", other)
    with pytest.raises(InputError, match=r"down_proj adapts .*\(64, 48\).*is this its base"):
        load_any(tmp_path / "adapter", base=base)


@pytest.mark.parametrize(
    ("change", "mention"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"r": 0}, "r is 0"),
        ({"r": "3"}, "r is '3'"),
        ({"r": 4}, "do not fit r = 4"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path is 3"),
        ({"lora_dropout": "x", "target_modules": 7}, "lora_dropout is 'x'"),
    ],
)
def test_an_adapter_config_that_says_something_else_is_refused(base, tmp_path, change, mention):
    folder = tmp_path / "adapter"
    save_random_adapter(folder, base)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError) as refusal:
        read_adapter(folder)
    assert mention in str(refusal.value) and str(folder) in str(refusal.value)


def test_half_a_pair_or_a_stray_tensor_is_refused(base, tmp_path):
    folder = tmp_path / "adapter"
    save_random_adapter(folder, base)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    first = min(tensors)
    save_file({k: v for k, v in tensors.items() if k != first}, file)
    with pytest.raises(InputError, match="has lora_B alone"):
        read_adapter(folder)
    save_file(tensors | {"base_model.model.lm_head.weight": torch.ones(2, 2)}, file)
    with pytest.raises(InputError, match="belongs to no LoRA layer"):
        read_adapter(folder)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(InputError, match="cut short"):
        read_adapter(folder)
