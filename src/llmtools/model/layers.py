"""The parts of a decoder block. Weight names are Hugging Face's, so files need no renaming.

T tokens, C hidden size, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from llmtools import ops
from llmtools.model.config import ModelConfig


class AttentionContext(Protocol):
    """What each token may look at: packed documents, or sequences with a key/value cache."""

    @property
    def positions_T(self) -> torch.Tensor:
        """The position of each token in its document or sequence, int64."""
        ...

    def attend(
        self, layer: int, q_THD: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor
    ) -> torch.Tensor:
        """Attention of these tokens' queries, (T, H, D); keys and values belong to `layer`."""
        ...


class Linear(nn.Linear):
    """nn.Linear computed by ops.linear."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return ops.linear(input, self.weight, self.bias)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ops.rms_norm(x, self.weight, self.eps)

    def after_adding(
        self, x: torch.Tensor, residual: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The norm of x + residual, and x + residual."""
        return ops.add_rms_norm(x, residual, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        query_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = Linear(config.hidden_size, query_size, bias=bias)
        self.k_proj = Linear(config.hidden_size, kv_size, bias=bias)
        self.v_proj = Linear(config.hidden_size, kv_size, bias=bias)
        self.o_proj = Linear(query_size, config.hidden_size, bias=bias)

    def forward(
        self,
        x_TC: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        context: AttentionContext,
    ) -> torch.Tensor:
        T, D = x_TC.shape[0], self.head_dim
        q_THD, k_TKD = self.q_proj(x_TC).view(T, -1, D), self.k_proj(x_TC).view(T, -1, D)
        q_THD, k_TKD = ops.apply_rope(q_THD, k_TKD, *rope)
        v_TKD = self.v_proj(x_TC).view(T, -1, D)
        out_THD = context.attend(self.layer, q_THD, k_TKD, v_TKD)
        out: torch.Tensor = self.o_proj(out_THD.reshape(T, -1))
        return out


class MLP(nn.Module):
    """The SwiGLU feed-forward layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(hidden, inner, bias=bias)
        self.up_proj = Linear(hidden, inner, bias=bias)
        self.down_proj = Linear(inner, hidden, bias=bias)

    def forward(self, x_TC: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down_proj(ops.swiglu(self.gate_proj(x_TC), self.up_proj(x_TC)))
        return out


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x_TC: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        context: AttentionContext,
    ) -> torch.Tensor:
        attended_TC = self.self_attn(self.input_layernorm(x_TC), rope, context)
        normed_TC, x_TC = self.post_attention_layernorm.after_adding(attended_TC, x_TC)
        out: torch.Tensor = x_TC + self.mlp(normed_TC)
        return out
