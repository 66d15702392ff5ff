"""Operations that take their kernels, in the interpreter: values and gradients through autograd are
those of the float64 references, and a whole model's are those of torch."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from autograd_results import gradients

from differences import error
from llmtools import ops
from llmtools.engine.cache import CachedContext, SequenceCache
from llmtools.errors import UsageError
from llmtools.model import Decoder, ModelConfig
from llmtools.model.packed import PackedRows
from llmtools.ops import path
from llmtools.ops.attention import attention_reference
from llmtools.ops.gated import gated_reference
from llmtools.ops.norm import layer_norm_reference, rms_norm_reference
from llmtools.ops.packed_weight import pack_weight
from llmtools.ops.quant_linear import quant_linear_reference
from llmtools.ops.rope import apply_rope_reference
from llmtools.ops.scaled_linear import quantize_rows, scaled_linear_reference
from llmtools.triton_kernels.masking import Masking

# Of the largest value: a few roundings in fp32, and that of results and of what lies between.
TOLERANCE = {torch.float32: 4e-6, torch.float16: 3e-3, torch.bfloat16: 2.4e-2}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
loss = import_module("llmtools.ops.loss")


@pytest.fixture(autouse=True)
def forced(monkeypatch):
    """Kernels, and three chunks of the tokens below."""
    monkeypatch.setattr(path, "FORCED", "triton")
    monkeypatch.setattr(loss, "LEAST_CHUNK", 4)


def drawn(*shapes, dtype):
    torch.manual_seed(0)
    return [torch.randn(shape).to(dtype) for shape in shapes]


LABELS = torch.tensor([0, 12, -100, 5, -100, 1, 2, 3, -100, 7, 7])
ANGLES = ops.rope_tables(torch.arange(5), 8, 100.0)
SLOPES = torch.tensor([0.1, 0.2, 0.3, 0.4])
WINDOW = Masking(window=3, slopes_H=SLOPES)
HEADS = ((9, 4, 8), (9, 2, 8), (9, 2, 8))
# name: ours, the reference, a wrong reference, shapes
OPS = {
    "attention": (
        lambda q, k, v: ops.attention(q, k, v, [4, 5]),
        lambda q, k, v: attention_reference(q, k, v, [4, 5])[0],
        lambda q, k, v: attention_reference(q, k, v, [5, 4])[0],
        HEADS,
    ),
    "bent attention": (
        lambda q, k, v: ops.attention(q, k, v, [9], masking=WINDOW),
        lambda q, k, v: attention_reference(q, k, v, [9], masking=WINDOW)[0],
        lambda q, k, v: attention_reference(q, k, v, [9], masking=Masking(window=3))[0],
        HEADS,
    ),
    "rms_norm": (
        lambda x, w: ops.rms_norm(x, w, 1e-5),
        lambda x, w: rms_norm_reference(x, w, 1e-5),
        lambda x, w: layer_norm_reference(x, w, None, 1e-5),
        ((5, 24), (24,)),
    ),
    "add_rms_norm": (
        lambda x, r, w: ops.add_rms_norm(x, r, w, 1e-5),
        lambda x, r, w: (rms_norm_reference(x + r, w, 1e-5), x + r),
        lambda x, r, w: (rms_norm_reference(x + r, w, 1e-5), x - r),
        ((2, 3, 24), (2, 3, 24), (24,)),
    ),
    "layer_norm": (
        lambda x, w, b: ops.layer_norm(x, w, b, 1e-5),
        lambda x, w, b: layer_norm_reference(x, w, b, 1e-5),
        lambda x, w, b: layer_norm_reference(x, w, -b, 1e-5),
        ((5, 24), (24,), (24,)),
    ),
    "rope": (
        lambda q, k: ops.apply_rope(q, k, *ANGLES),
        lambda q, k: tuple(apply_rope_reference(x, *ANGLES) for x in (q, k)),
        lambda q, k: tuple(apply_rope_reference(x, ANGLES[0], -ANGLES[1]) for x in (q, k)),
        ((5, 4, 12), (5, 2, 12)),
    ),
    "swiglu": (
        ops.swiglu,
        lambda g, u: gated_reference(g, u, "silu"),
        lambda g, u: gated_reference(u, g, "silu"),
        ((2, 3, 24), (2, 3, 24)),
    ),
    "geglu": (
        ops.geglu,
        lambda g, u: gated_reference(g, u, "gelu_tanh"),
        lambda g, u: gated_reference(g, u, "silu"),
        ((5, 24), (5, 24)),
    ),
    "cross_entropy": (
        lambda h, w: ops.cross_entropy(h, w, LABELS, z_weight=0.1, softcap=8.0),
        lambda h, w: loss.cross_entropy_reference(h, w, LABELS, z_weight=0.1, softcap=8.0),
        lambda h, w: loss.cross_entropy_reference(h, w, LABELS, z_weight=0.2, softcap=8.0),
        ((11, 24), (13, 24)),
    ),
    "linear_log_probs": (
        lambda h, w: ops.linear_log_probs(h, w, LABELS, softcap=8.0),
        lambda h, w: loss.log_probs_reference(h, w, LABELS, softcap=8.0),
        lambda h, w: loss.log_probs_reference(h, w, LABELS, softcap=4.0),
        ((11, 24), (13, 24)),
    ),
}


@DTYPES
@pytest.mark.parametrize("name", list(OPS))
def test_values_and_gradients_are_those_of_the_reference(name, dtype):
    ours, reference, wrong, shapes = OPS[name]
    inputs = drawn(*shapes, dtype=dtype)
    found = gradients(ours, *inputs)
    assert error(found, gradients(reference, *inputs)) < TOLERANCE[dtype]
    assert error(found, gradients(wrong, *inputs)) > 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_products_with_quantized_weights(dtype):
    x, bias = drawn((3, 96), (10,), dtype=dtype)
    packed = pack_weight(
        torch.randint(0, 16, (96, 10), dtype=torch.uint8), torch.rand(3, 10).half(),
        bits=4, group_size=32,
    )  # fmt: skip
    found = ops.quant_linear(x, packed, bias)
    assert error([found], [quant_linear_reference(x, packed, bias)]) < TOLERANCE[dtype]
    weight, scales = quantize_rows(torch.randn(10, 96), torch.int8)
    found = ops.scaled_linear(x, weight, scales, bias)
    assert error([found], [scaled_linear_reference(x, weight, scales, bias)]) < TOLERANCE[dtype]


CONFIG = ModelConfig(
    model_type="llama", vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
)  # fmt: skip


def step(decoder):
    """The loss and all gradients of two documents."""
    ids = torch.arange(11) * 7 % 50
    labels = torch.cat([ids[1:], torch.tensor([-100])])
    decoder.zero_grad()
    total = decoder.loss(ids, labels, PackedRows([4, 7]))
    total.backward()
    return [total.detach(), *(p.grad.clone() for p in decoder.parameters())]


def test_a_training_step_of_a_model_is_torch_s(monkeypatch):
    decoder = Decoder(CONFIG)
    decoder.initialize(0)
    found = step(decoder)
    monkeypatch.setattr(path, "FORCED", "native")
    assert error(found, step(decoder)) < 1e-5


@torch.inference_mode()
def decoded(decoder):
    """Logits of a prompt and of four tokens after it, over a cache."""
    cache = SequenceCache(CONFIG, 20, torch.device("cpu"), torch.float32)
    logits = []
    for ids in ([1, 2, 3], [4], [5], [6], [7]):
        context = CachedContext([(cache, len(ids))], torch.device("cpu"))
        logits.append(decoder.logits(decoder(torch.tensor(ids), context)))
        context.commit()
    return logits


def test_decoding_over_a_cache_is_torch_s_and_reads_it_in_pages(monkeypatch):
    decoder = Decoder(CONFIG)
    decoder.initialize(0)
    module = import_module("llmtools.ops.cached_attention")
    read = []
    paged = module.paged_attention
    monkeypatch.setattr(
        module, "paged_attention", lambda *a, **named: read.append(1) or paged(*a, **named)
    )
    found = decoded(decoder)
    assert len(read) == 4 * CONFIG.num_hidden_layers
    monkeypatch.setattr(path, "FORCED", "native")
    assert error(found, decoded(decoder)) < 1e-5


def test_a_cache_whose_last_page_ends_past_its_memory_is_read_as_it_is():
    q, keys, values = drawn((1, 4, 8), (2, 17, 8), (2, 17, 8), dtype=torch.float32)
    with torch.no_grad():
        found = ops.cached_attention(q, keys, values)
    want = attention_reference(q, keys.transpose(0, 1), values.transpose(0, 1), [1], [17])[0]
    assert error([found], [want]) < 2e-6


def test_torch_finds_the_ops_sound_and_compiles_them():
    q, k, v = drawn(*HEADS, dtype=torch.float32)
    x, w, b = drawn((5, 24), (24,), (24,), dtype=torch.float32)

    def layer(q, k, v, x, w, b):
        out = ops.attention(*ops.apply_rope(q, k, *ANGLES_9), v, [9])
        normed, z = ops.add_rms_norm(x, x, w, 1e-5)
        return out, ops.swiglu(normed, z), ops.layer_norm(x, w, b, 1e-5)

    want = gradients(layer, q, k, v, x, w, b)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert error(gradients(compiled, q, k, v, x, w, b), want) == 0
    leaf = x.clone().requires_grad_()
    torch.library.opcheck(
        torch.ops.llmtools.norm, (leaf.view(5, 1, 24), w, b, None, 1e-5, True),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )  # fmt: skip


ANGLES_9 = ops.rope_tables(torch.arange(9), 8, 100.0)


def test_what_a_kernel_does_not_take_is_refused_when_it_is_forced():
    q = torch.randn(3, 1, 300)
    with pytest.raises(UsageError, match="heads of size 300; 128 at most are taken in float32"):
        ops.attention(q, q, q, [3])
    with pytest.raises(UsageError, match="heads of size 300; 256 at most are taken;"):
        ops.attention(q.half(), q.half(), q.half(), [3])
    with pytest.raises(UsageError, match="float64"):
        ops.swiglu(q.double(), q.double())
