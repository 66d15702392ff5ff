"""Names, keys and row order of Llama models in GGUF files."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from llmtools.errors import InputError
from llmtools.formats.gguf_names import (
    gguf_metadata_from_hf_config,
    gguf_name,
    hf_config_from_gguf,
    hf_name,
    permute_qk,
    unpermute_qk,
)

CONFIG = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
}
WEIGHTS = [
    "model.embed_tokens.weight",
    "model.norm.weight",
    "lm_head.weight",
    *(
        f"model.layers.11.{part}"
        for part in (
            "input_layernorm.weight",
            "self_attn.q_proj.weight",
            "self_attn.k_proj.bias",
            "self_attn.v_proj.weight",
            "self_attn.o_proj.weight",
            "post_attention_layernorm.weight",
            "mlp.gate_proj.weight",
            "mlp.up_proj.bias",
            "mlp.down_proj.weight",
        )
    ),
]


@pytest.mark.parametrize("name", WEIGHTS)
def test_weight_names_are_the_gguf_packages(name: str) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 12)
    assert gguf_name(name) == names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert hf_name(gguf_name(name)) == name


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.0.output.weight", "attn_q.weight", ""])
def test_a_tensor_without_a_place_is_an_error(name: str) -> None:
    with pytest.raises(InputError, match="no place"):
        hf_name(name)


def test_permute_pairs_the_two_halves_of_each_head() -> None:
    rows = np.arange(12)[:, None]
    assert permute_qk(rows, 2)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    x = np.random.default_rng(0).standard_normal((24, 5))
    assert np.array_equal(unpermute_qk(permute_qk(x, 3), 3), x)
    assert not np.array_equal(permute_qk(x, 3), x)
    assert np.array_equal(permute_qk(x[:, 0], 3), permute_qk(x, 3)[:, 0])


def test_a_config_survives_the_way_to_gguf_and_back() -> None:
    metadata = gguf_metadata_from_hf_config(CONFIG)
    metadata["llama.attention.layer_norm_rms_epsilon"] = float(np.float32(1e-5))
    back = hf_config_from_gguf(metadata | {"tokenizer.ggml.eos_token_id": 2}, ["token_embd.weight"])
    assert {k: back[k] for k in CONFIG} == CONFIG
    assert back["tie_word_embeddings"] is True
    assert back["eos_token_id"] == 2
    assert hf_config_from_gguf(metadata, ["output.weight"])["tie_word_embeddings"] is False


def test_a_wide_head_is_stated() -> None:
    metadata = gguf_metadata_from_hf_config(CONFIG | {"head_dim": 16})
    assert metadata["llama.attention.key_length"] == 16
    assert hf_config_from_gguf(metadata, [])["head_dim"] == 16


def test_what_cannot_be_carried_is_refused() -> None:
    scaled = CONFIG | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}
    with pytest.raises(InputError, match="llama3"):
        gguf_metadata_from_hf_config(scaled)
    with pytest.raises(InputError, match="mamba"):
        gguf_metadata_from_hf_config(CONFIG | {"model_type": "mamba"})
    metadata = gguf_metadata_from_hf_config(CONFIG)
    with pytest.raises(InputError, match="qwen2"):
        hf_config_from_gguf(metadata | {"general.architecture": "qwen2"}, [])
    with pytest.raises(InputError, match="block_count"):
        hf_config_from_gguf({k: v for k, v in metadata.items() if "block" not in k}, [])
    with pytest.raises(InputError, match="'many'"):
        hf_config_from_gguf(metadata | {"llama.block_count": "many"}, [])


def test_a_value_of_the_wrong_type_is_an_input_error_at_every_key() -> None:
    metadata = gguf_metadata_from_hf_config(CONFIG | {"head_dim": 16}) | {
        "llama.expert_count": 0,
        "llama.rope.scaling.type": "none",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 3,
    }
    assert hf_config_from_gguf(metadata, [])["eos_token_id"] == [2, 3]
    unused = {"llama.attention.value_length", "llama.rope.dimension_count"}
    for key in metadata.keys() - unused:
        for wrong in ([1, 2], np.arange(3), {}, True, b"x"):
            with pytest.raises(InputError):
                hf_config_from_gguf(metadata | {key: wrong}, [])
