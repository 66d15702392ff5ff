"""The decoder: configs, files and its own invariants."""

from __future__ import annotations

import json

import pytest
import torch

from llmtools.errors import InputError
from llmtools.model import Decoder, ModelConfig, PackedRows, config_from_hf, load_model, save_model

TINY = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def tiny_decoder(**changes) -> Decoder:
    decoder = Decoder(config_from_hf({**TINY, **changes}, "test"))
    decoder.initialize(seed=0)
    return decoder.eval()


def test_defaults_follow_hugging_face():
    config = config_from_hf({**TINY, "num_key_value_heads": None}, "test")
    assert (config.num_key_value_heads, config.head_dim) == (4, 8)
    assert (config.rms_norm_eps, config.rope_theta, config.tie_word_embeddings) == (
        1e-6,
        1e4,
        False,
    )


def test_rope_theta_is_read_from_rope_parameters_and_from_its_own_key():
    assert config_from_hf({**TINY, "rope_theta": 5e5}, "test").rope_theta == 5e5
    parameters = {"rope_theta": 1e6, "rope_type": "default"}
    assert config_from_hf({**TINY, "rope_parameters": parameters}, "test").rope_theta == 1e6


def test_a_config_round_trips_through_its_hugging_face_form():
    config = config_from_hf({**TINY, "rope_theta": 5e5, "tie_word_embeddings": True}, "test")
    assert config_from_hf(json.loads(json.dumps(config.to_hf())), "test") == config


@pytest.mark.parametrize(
    ("changes", "mentions"),
    [
        ({"hiden_size": 32}, ["'hiden_size'", "did you mean 'hidden_size'"]),
        ({"model_type": "lama"}, ["'lama'", "did you mean 'llama'"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "'gelu'", "'silu'"]),
        ({"num_key_value_heads": 3}, ["4", "3"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers", "0"]),
        ({"vocab_size": "97"}, ["vocab_size", "'97'"]),
        ({"rope_scaling": {"rope_type": "yarn"}}, ["yarn"]),
        ({"bogus": 1, "other": 2}, ["'bogus'", "'other'"]),
    ],
)
def test_a_config_mistake_is_named_with_its_file(changes, mentions):
    with pytest.raises(InputError) as caught:
        config_from_hf({**TINY, **changes}, "m/config.json")
    for word in ["m/config.json", *mentions]:
        assert word in str(caught.value)


def test_missing_keys_are_all_named():
    with pytest.raises(InputError, match=r"vocab_size.*num_hidden_layers"):
        config_from_hf({"model_type": "llama", "hidden_size": 8, "intermediate_size": 8,
                        "num_attention_heads": 1}, "test")  # fmt: skip


def test_a_saved_model_loads_with_equal_logits(tmp_path):
    for tied in (False, True):
        decoder = tiny_decoder(tie_word_embeddings=tied)
        folder = tmp_path / str(tied)
        folder.mkdir()
        save_model(folder, decoder)
        again = load_model(folder)
        ids = torch.arange(20)
        with torch.no_grad():
            expected = decoder.logits(decoder(ids, PackedRows([20])))
            assert torch.equal(again.logits(again(ids, PackedRows([20]))), expected)


def test_a_config_that_does_not_fit_the_weights_is_refused(tmp_path):
    save_model(tmp_path, tiny_decoder())
    path = tmp_path / "config.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps({**good, "num_hidden_layers": 3}))
    with pytest.raises(InputError, match=r"missing model\.layers\.2"):
        load_model(tmp_path)
    path.write_text(json.dumps({**good, "num_hidden_layers": 1}))
    with pytest.raises(InputError, match=r"unexpected model\.layers\.1"):
        load_model(tmp_path)
    path.write_text(json.dumps({**good, "intermediate_size": 40}))
    with pytest.raises(InputError, match=r"gate_proj\.weight has shape \(48, 32\).*\(40, 32\)"):
        load_model(tmp_path)


def test_a_document_does_not_see_the_one_before_it():
    decoder = tiny_decoder()
    ids = torch.randint(0, 97, (20,), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[:8] = (changed[:8] + 1) % 97
    with torch.no_grad():
        first = decoder(ids, PackedRows([8, 12]))
        second = decoder(changed, PackedRows([8, 12]))
    assert not torch.equal(first[:8], second[:8])
    assert torch.equal(first[8:], second[8:])


def test_packed_documents_equal_the_same_documents_alone():
    decoder = tiny_decoder()
    ids = torch.randint(0, 97, (20,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        packed = decoder(ids, PackedRows([8, 12]))
        alone = torch.cat([decoder(ids[:8], PackedRows([8])), decoder(ids[8:], PackedRows([12]))])
    torch.testing.assert_close(packed, alone, rtol=1e-6, atol=1e-6)


def test_initialisation_is_a_function_of_the_seed():
    a, b, c = (Decoder(config_from_hf(TINY, "test")) for _ in range(3))
    a.initialize(seed=7)
    b.initialize(seed=7)
    c.initialize(seed=8)
    weight = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(a.state_dict()[weight], b.state_dict()[weight])
    assert not torch.equal(a.state_dict()[weight], c.state_dict()[weight])
    assert isinstance(a.config, ModelConfig)
