"""Decoding over a paged cache against float64: pages anywhere, splits, maskings, small elements."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import differences
from llmtools.triton_kernels.launch import Config
from llmtools.triton_kernels.masking import Masking
from llmtools.triton_kernels.paged_attention import choose_splits, paged_attention
from llmtools.triton_kernels.paged_cache import PagedCache

# Of the largest value: sums of a few dozen products in fp32, and the rounding of stored results.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
SMALL = Config(blocks={"BLOCK_N": 16})


def drawn(lengths, heads, head_dim, page, dtype, stored=None):
    """Queries, a cache whose pages are shuffled, and its keys and values in float64."""
    torch.manual_seed(0)
    H, K = heads
    width = max(1, -(-max(lengths) // page))
    pages = len(lengths) * width + 1
    table = torch.randperm(pages)[: len(lengths) * width].view(-1, width).int()
    pools, scales, wide = [], [], []
    for _ in range(2):
        pool = torch.randn(pages, page, K, head_dim)
        if stored is None:
            pools.append(pool.to(dtype))
            scales.append(None)
            wide.append(pools[-1].double())
        else:
            most = 127 if stored == torch.int8 else 448
            scale = pool.abs().amax(-1) / most
            small = pool / scale[..., None]
            pools.append((small.round() if stored == torch.int8 else small).to(stored))
            scales.append(scale)
            wide.append(pools[-1].double() * scale[..., None].double())
    cache = PagedCache(
        keys_PSKD=pools[0],
        values_PSKD=pools[1],
        table_BN=table,
        lengths_B=torch.tensor(lengths, dtype=torch.int32),
        k_scales_PSK=scales[0],
        v_scales_PSK=scales[1],
    )
    # Heads of queries lie apart, as in the output of a fused projection.
    q = torch.randn(len(lengths), H + 2, head_dim).to(dtype)[:, :H]
    return q, cache, wide


def reference(q, cache, wide, masking, scale):
    outs, lses = [], []
    for b, length in enumerate(cache.lengths_B.tolist()):
        group = q.shape[1] // wide[0].shape[2]
        k, v = (
            pool[cache.table_BN[b].long()].flatten(0, 1)[:length].repeat_interleave(group, 1)
            for pool in wide
        )
        scores = torch.einsum("hd,nhd->hn", q[b].double(), k) * scale
        if masking.softcap:
            scores = masking.softcap * torch.tanh(scores / masking.softcap)
        behind = torch.arange(length) - (length - 1)
        if masking.slopes_H is not None:
            scores = scores + masking.slopes_H.double()[:, None] * behind
        if masking.window is not None:
            scores[:, -behind >= masking.window] = -math.inf
        if masking.sinks_H is not None:
            scores = torch.cat([scores, masking.sinks_H.double()[:, None]], 1)
        lse = scores.logsumexp(-1)
        base = torch.where(lse == -math.inf, 0.0, lse)
        outs.append(torch.einsum("hn,nhd->hd", (scores - base[:, None]).exp()[:, :length], v))
        lses.append(lse)
    return torch.stack(outs), torch.stack(lses)


def error(found, want):
    """Where nothing is seen, -inf stands in both."""
    finite = torch.isfinite(want)
    assert torch.equal(torch.isfinite(found), finite)
    return differences.error(found[finite], want[finite])


SLOPES, SINKS = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.0, 1, -1, 2])
# lengths, heads, head size, page, masking, splits
CASES = {
    "one position": ([1], (1, 1), 16, 16, Masking(), 1),
    "three sequences": ([37, 5, 64], (4, 2), 24, 16, Masking(), None),
    "splits, some empty": ([70, 3], (4, 2), 16, 16, Masking(), 5),
    "an empty sequence": ([0, 20], (2, 1), 16, 8, Masking(), 2),
    "odd pages": ([37, 50], (6, 2), 40, 5, Masking(), 2),
    "large groups": ([33], (20, 1), 16, 32, Masking(), 1),
    "window": ([70, 9], (4, 2), 16, 16, Masking(window=20), 3),
    "everything": (
        [50, 20],
        (4, 2),
        16,
        16,
        Masking(window=30, softcap=3.0, slopes_H=SLOPES, sinks_H=SINKS),
        2,
    ),
}


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("name", list(CASES))
def test_values_are_those_of_float64(name, dtype):
    lengths, heads, head_dim, page, masking, splits = CASES[name]
    q, cache, wide = drawn(lengths, heads, head_dim, page, dtype)
    scale = head_dim**-0.5
    found = paged_attention(q, cache, max(lengths), masking, scale, config=SMALL, splits=splits)
    want = reference(q, cache, wide, masking, scale)
    assert error(found[0], want[0]) < TOLERANCE[dtype]
    assert error(found[1], want[1]) < TOLERANCE[dtype]


@pytest.mark.parametrize("stored", [torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_small_elements_are_decoded_by_their_scales(stored, dtype):
    q, cache, wide = drawn([37, 50], (4, 2), 16, 16, dtype, stored)
    masking = Masking(softcap=5.0)
    want = reference(q, cache, wide, masking, 0.25)
    found = paged_attention(q, cache, 50, masking, 0.25, config=SMALL, splits=2)
    assert error(found[0], want[0]) < TOLERANCE[dtype]
    swapped = replace(cache, k_scales_PSK=cache.v_scales_PSK, v_scales_PSK=cache.k_scales_PSK)
    wrong = paged_attention(q, swapped, 50, masking, 0.25, config=SMALL, splits=2)
    assert error(wrong[0], want[0]) > 3.2e-2


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Masking(window=20), Masking(window=21)),
        (Masking(sinks_H=SINKS), Masking()),
        (Masking(slopes_H=SLOPES), Masking(slopes_H=-SLOPES)),
    ],
)
def test_another_masking_is_told_apart(ours, theirs):
    q, cache, wide = drawn([50, 37], (4, 2), 16, 16, torch.bfloat16)
    found = paged_attention(q, cache, 50, ours, 0.25, config=SMALL, splits=2)
    assert error(found[0], reference(q, cache, wide, theirs, 0.25)[0]) > 3.2e-2


def test_another_order_of_pages_is_told_apart():
    q, cache, wide = drawn([50, 37], (4, 2), 16, 16, torch.bfloat16)
    other = replace(cache, table_BN=cache.table_BN.flip(1))
    found = paged_attention(q, other, 50, Masking(slopes_H=SLOPES), 1.0, config=SMALL)
    want = reference(q, cache, wide, Masking(slopes_H=SLOPES), 1.0)
    assert error(found[0], want[0]) > 3.2e-2


def test_splits_fill_the_gpu_and_no_more():
    assert choose_splits(8, 100_000, 132) == 33
    assert choose_splits(8, 1000, 132) == 3
    assert choose_splits(512, 100_000, 132) == 1
