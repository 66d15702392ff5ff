"""Which way an operation is computed, and what the environment may force."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from llmtools import ops
from llmtools.errors import UsageError
from llmtools.ops import path


class OnGPU:
    """What `choose` asks of a tensor."""

    is_cuda = True
    device = torch.device("cuda")


@pytest.fixture(autouse=True)
def hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


def test_a_gpu_s_tensors_take_the_kernel_and_a_cpu_s_do_not():
    assert path.choose("op", OnGPU(), lambda: None) == "triton"
    assert path.choose("op", torch.ones(1), lambda: None) == "native"


def test_what_a_kernel_refuses_goes_to_torch_with_one_warning_that_says_why(capsys):
    for _ in range(2):
        assert path.choose("op", OnGPU(), lambda: "heads of size 300") == "native"
    assert capsys.readouterr().err == "warning: op runs without its kernel: heads of size 300\n"


def test_an_architecture_that_kernels_were_not_compiled_for_is_left_to_torch(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert path.choose("old", OnGPU(), lambda: None) == "native"
    assert "compute capability 7.5; kernels take 8.0" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["reference", "native"])
def test_a_forced_way_is_taken_wherever_tensors_are(way, monkeypatch):
    monkeypatch.setattr(path, "FORCED", way)
    for x in (OnGPU(), torch.ones(1)):
        assert path.choose("op", x, lambda: "no kernel") == way


def test_a_forced_kernel_is_refused_where_it_cannot_be_had(monkeypatch):
    monkeypatch.setattr(path, "FORCED", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert path.choose("op", OnGPU(), lambda: None) == "triton"
    with pytest.raises(UsageError, match="op: heads of size 300"):
        path.choose("op", OnGPU(), lambda: "heads of size 300")
    with pytest.raises(UsageError, match="tensors are on cpu"):
        path.choose("op", torch.ones(1), lambda: None)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; from llmtools import cli\n{code}"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("named", "code", "said"),
    [
        ("tritn", 2, "LLMTOOLS_OPS=tritn: must be reference, triton or native; did you mean"),
        ("triton", 4, "LLMTOOLS_OPS=triton: this machine has no GPU"),
    ],
)
def test_what_cannot_be_forced_is_one_message(named, code, said):
    if named == "triton" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    ended = run(
        "cli.run = lambda argv: cli.guarded(lambda: __import__('llmtools.ops'), False)\n"
        "cli.main([])",
        LLMTOOLS_OPS=named,
        TRITON_INTERPRET="",
    )
    assert ended.returncode == code and said in ended.stderr
    assert "Traceback" not in ended.stderr and ended.stderr.count("\n") == 1


def test_the_reference_computes_what_torch_does(monkeypatch):
    torch.manual_seed(0)
    q, k, v = torch.randn(9, 4, 8), torch.randn(9, 2, 8), torch.randn(9, 2, 8)
    x, w = torch.randn(9, 8), torch.randn(8)
    cos, sin = ops.rope_tables(torch.arange(9), 8, 100.0)
    labels = torch.arange(9) % 5

    def everything():
        out = [ops.attention(q, k, v, [4, 5]), ops.attention_and_lse(q, k, v, [9])[1]]
        out += [ops.rms_norm(x, w, 1e-5), *ops.add_rms_norm(x, x, w, 1e-5)]
        out += [ops.layer_norm(x, w, w, 1e-5), ops.swiglu(x, x), ops.geglu(x, x)]
        out += [*ops.apply_rope(q, k, cos, sin), ops.cross_entropy(x, x[:5], labels)]
        out += [*ops.linear_log_probs(x, x[:5], labels), ops.linear(x, x)]
        return out

    native = everything()
    monkeypatch.setattr(path, "FORCED", "reference")
    for found, want in zip(everything(), native, strict=True):
        assert found.dtype == want.dtype
        torch.testing.assert_close(found, want, rtol=2e-5, atol=2e-5)
