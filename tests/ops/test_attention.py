"""Attention with every masking against its float64 definition, values and gradients."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import pytest
import torch

from llmtools import ops
from llmtools.ops.attention import attention_reference
from llmtools.ops.paged_attention import paged_attention, paged_attention_reference
from llmtools.triton_kernels.masking import Masking
from llmtools.triton_kernels.paged_cache import PagedCache

TOLERANCE = 2e-5
SLOPES, SINKS = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.0, 1, -1, 2])
MASKINGS = {
    "causal": Masking(),
    "all see all": Masking(causal=False),
    "window": Masking(window=3),
    "window wider than a block": Masking(window=9),
    "soft cap": Masking(softcap=2.0),
    "alibi": Masking(slopes_H=SLOPES),
    "sinks": Masking(sinks_H=SINKS),
    "everything": Masking(window=5, softcap=3.0, slopes_H=SLOPES, sinks_H=SINKS),
}
LENGTHS = {
    "one": ([7], [7]),
    "documents": ([4, 1, 9], [4, 1, 9]),
    "behind caches": ([2, 1, 5], [9, 6, 5]),
    "one query each": ([1, 1], [6, 6]),
    "more queries than keys": ([9], [6]),
    "no keys": ([2, 3], [0, 3]),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    # The package has a function of the same name.
    monkeypatch.setattr(import_module("llmtools.ops.attention"), "BLOCK_QUERIES", 4)


def drawn(lengths, dtype=torch.float32):
    torch.manual_seed(0)
    queries, keys = map(sum, lengths)
    return [torch.randn(n, heads, 8).to(dtype) for n, heads in ((queries, 4), (keys, 2), (keys, 2))]


def results(function, qkv, lengths, masking):
    """Output, log-sum-exp where the function gives it, and gradients of q, k, v and sinks."""
    leaves = [x.detach().clone().requires_grad_() for x in qkv]
    if masking.sinks_H is not None:
        leaves.append(masking.sinks_H.clone().requires_grad_())
        masking = replace(masking, sinks_H=leaves[-1])
    found = function(*leaves[:3], *lengths, masking=masking)
    outs = list(found) if isinstance(found, tuple) else [found]
    (outs[0] * torch.linspace(-1, 1, outs[0].numel()).view(outs[0].shape)).sum().backward()
    return [x.detach() for x in outs], [x.grad for x in leaves]


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("masking", MASKINGS.values(), ids=MASKINGS)
def test_values_and_gradients_are_those_of_the_definition(masking, lengths):
    qkv = drawn(lengths)
    want, want_grads = results(attention_reference, qkv, lengths, masking)
    for function in (ops.attention, ops.attention_and_lse):
        found, grads = results(function, qkv, lengths, masking)
        pairs = [*zip(found, want, strict=False), *zip(grads, want_grads, strict=True)]
        for actual, expected in pairs:
            torch.testing.assert_close(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("name", [name for name in MASKINGS if name != "causal"])
def test_a_masking_is_told_from_none(name):
    qkv, lengths = drawn(([12], [12])), ([12], [12])
    plain = attention_reference(*qkv, *lengths)[0]
    bent = ops.attention(*qkv, *lengths, masking=MASKINGS[name])
    assert (bent - plain).abs().max() > 0.01


def test_a_scale_is_taken():
    qkv = drawn(([5], [5]))
    for masking in (Masking(), Masking(window=3)):
        named = {"masking": masking, "scale": 0.7}
        want = attention_reference(*qkv, [5], **named)[0]
        torch.testing.assert_close(ops.attention(*qkv, [5], **named), want, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(ops.attention(*qkv, [5], masking=masking), want, atol=1e-3)


def test_parts_of_the_keys_are_merged_by_their_log_sum_exps():
    q, k, v = drawn(([3], [9]))
    whole, _ = ops.attention_and_lse(q, k, v, [3], [9], masking=Masking(causal=False))
    parts = [
        ops.attention_and_lse(
            q, k[part], v[part], [3], [len(k[part])], masking=Masking(causal=False)
        )
        for part in (slice(0, 4), slice(4, 9))
    ]
    shares = torch.stack([lse for _, lse in parts]).softmax(0)
    merged = sum(out * share.T[..., None] for (out, _), share in zip(parts, shares, strict=True))
    torch.testing.assert_close(merged, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masking", [m for m in MASKINGS.values() if m.causal], ids=str)
@pytest.mark.parametrize("stored", [torch.float32, torch.int8], ids=str)
def test_a_paged_cache_is_attended_like_one_that_is_not(masking, stored):
    torch.manual_seed(1)
    lengths, page = [6, 0, 11], 4
    table = torch.randperm(12)[:9].view(3, 3).int()
    pools = torch.randn(2, 12, page, 2, 8)
    scales = [None, None]
    if stored == torch.int8:
        scales = pools.abs().amax(-1) / 127
        pools = (pools / scales[..., None]).round().to(stored)
    cache = PagedCache(
        keys_PSKD=pools[0],
        values_PSKD=pools[1],
        table_BN=table,
        lengths_B=torch.tensor(lengths, dtype=torch.int32),
        k_scales_PSK=scales[0],
        v_scales_PSK=scales[1],
    )
    wide = pools.float() if stored == torch.float32 else pools.float() * scales[..., None]
    keys, values = (
        torch.cat([pool[table[b].long()].flatten(0, 1)[:n] for b, n in enumerate(lengths)])
        for pool in wide
    )
    q = torch.randn(3, 4, 8)
    out, lse = paged_attention(q, cache, 11, masking=masking)
    want, want_lse = attention_reference(q, keys, values, [1, 1, 1], lengths, masking=masking)
    torch.testing.assert_close(out, want, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(lse, want_lse.T, rtol=TOLERANCE, atol=TOLERANCE)
    for found, expected in zip(
        paged_attention_reference(q, cache, masking=masking), (want, want_lse.T), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    turned = replace(cache, table_BN=table.flip(0))
    assert not torch.allclose(paged_attention(q, turned, 11, masking=masking)[0], want, atol=0.01)
