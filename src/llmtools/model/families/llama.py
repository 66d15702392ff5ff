"""Llama and models of its shape (SmolLM, SmolLM2, TinyLlama, Yi)."""

from __future__ import annotations

from llmtools.model.families.family import Family

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    fixed={
        "hidden_act": ("silu",),
        "attention_dropout": (0.0, 0),
        # Splits matmuls for bitwise agreement with tensor-parallel pretraining; 1 means off.
        "pretraining_tp": (1, None),
        "is_llama_config": (True,),
        "rope_interleaved": (False,),
    },
    ignored=frozenset(
        {
            "_name_or_path",
            "architectures",
            "chunk_size_feed_forward",
            "dtype",
            "id2label",
            "is_encoder_decoder",
            "label2id",
            "output_attentions",
            "output_hidden_states",
            "problem_type",
            "return_dict",
            "rope_parameters",
            "rope_scaling",
            "torch_dtype",
            "transformers.js_config",
            "transformers_version",
            "use_cache",
        }
    ),
)
