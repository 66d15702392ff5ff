"""The decoder: token ids to hidden states, and hidden states to logits or a loss.

Tokens of all documents or sequences of a batch lie in one flat dimension T; an AttentionContext
says which belong together. So training on packed rows, prefill and batched decoding are one
forward pass.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from llmtools import ops
from llmtools.model.config import ModelConfig
from llmtools.model.layers import AttentionContext, Block, Linear, RMSNorm


class Body(nn.Module):
    """Everything but the output head; named `model` in Hugging Face's files."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # nn.Embedding's own random start would, on the meta device that models are built on before
        # they are loaded, import torch's compiler: 1.5 s.
        self.embed_tokens = nn.Embedding(
            config.vocab_size,
            config.hidden_size,
            _weight=torch.empty(config.vocab_size, config.hidden_size),
        )
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """A causal language model of the Llama shape; its weights mean nothing before they are loaded
    or `initialize` draws them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.lm_head: Linear | None = None
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def head_weight_VC(self) -> torch.Tensor:
        """The output head's weight; the embedding itself where the two are tied."""
        if self.lm_head is None:
            return self.model.embed_tokens.weight
        return self.lm_head.weight

    def forward(self, input_ids_T: torch.Tensor, context: AttentionContext) -> torch.Tensor:
        """Hidden states (T, C) after the final norm of T tokens given as int64 ids."""
        config = self.config
        rope = ops.rope_tables(context.positions_T, config.head_dim, config.rope_theta)
        x_TC = self.model.embed_tokens(input_ids_T)
        for block in self.model.layers:
            x_TC = block(x_TC, rope, context)
        out: torch.Tensor = self.model.norm(x_TC)
        return out

    def logits(self, hidden_TC: torch.Tensor) -> torch.Tensor:
        """Next-token logits (T, V); pass only the positions that are needed."""
        return ops.linear(hidden_TC, self.head_weight_VC)

    def loss(
        self, input_ids_T: torch.Tensor, labels_T: torch.Tensor, context: AttentionContext
    ) -> torch.Tensor:
        """Summed next-token loss over the labelled tokens (ops.cross_entropy)."""
        return ops.cross_entropy(self(input_ids_T, context), self.head_weight_VC, labels_T)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Random weights: normal(0, initializer_range); the layers that write to the residual
        stream are scaled by 1/sqrt(2 * layers) (GPT-2, section 2.3); norms are 1, biases 0.

        Drawn in fp32 from one CPU generator, so a seed means the same weights on every device.
        """
        generator = torch.Generator().manual_seed(seed)
        std = self.config.initializer_range
        residual_std = std / math.sqrt(2 * self.config.num_hidden_layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(0.0 if name.endswith(".bias") else 1.0)
                continue
            writes_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            values = torch.empty(parameter.shape, dtype=torch.float32)
            values.normal_(0.0, residual_std if writes_residual else std, generator=generator)
            parameter.copy_(values)
