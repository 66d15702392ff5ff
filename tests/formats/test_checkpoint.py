"""Model directories: what is written is read, and what is damaged is named."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from llmtools.errors import InputError, ResourceError
from llmtools.formats.checkpoint import open_checkpoint, save_tensors, write_checkpoint

CONFIG = {"model_type": "llama", "tie_word_embeddings": False}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(6, 4, generator=generator),
        "b.weight": torch.randn(5, generator=generator).bfloat16(),
        "c.weight": torch.randn(3, 8, generator=generator).half(),
    }


def written(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    write_checkpoint(path, tensors(), CONFIG)
    return path


def sharded(path: Path, **weight_map: object) -> Path:
    written(path)
    (path / "model.safetensors").rename(path / "part.safetensors")
    full = {name: "part.safetensors" for name in tensors()}
    (path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map or full})
    )
    return path


@pytest.mark.parametrize("make", [written, sharded])
def test_weights_come_back_as_they_were(tmp_path: Path, make: object) -> None:
    assert callable(make)
    checkpoint = open_checkpoint(make(tmp_path))
    assert checkpoint.config == CONFIG
    assert checkpoint.names() == sorted(tensors())
    for name, value in tensors().items():
        assert checkpoint.shape(name) == tuple(value.shape)
        assert checkpoint.num_bytes(name) == value.nbytes
        assert torch.equal(checkpoint.load(name), value)
        assert checkpoint.load(name).dtype == value.dtype
    assert [checkpoint.dtype(n) for n in checkpoint.names()] == ["F32", "BF16", "F16"]


def test_the_metadata_says_pytorch_so_that_transformers_loads_it(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tensors(), CONFIG, metadata={"llmtools.manifest": "abc"})
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "llmtools.manifest": "abc"}


@pytest.mark.parametrize("is_tied", [True, False])
def test_shared_weights_are_written_once_only_when_the_config_ties_them(
    tmp_path: Path, is_tied: bool
) -> None:
    shared = torch.randn(4, 4)
    part = torch.randn(8, 4)[:3]
    write_checkpoint(
        tmp_path,
        {"embed": shared, "head": shared, "part": part},
        {"tie_word_embeddings": is_tied},
    )
    stored = load_file(tmp_path / "model.safetensors")
    assert sorted(stored) == (["embed", "part"] if is_tied else ["embed", "head", "part"])
    assert torch.equal(stored["part"], part)
    assert is_tied or torch.equal(stored["head"], shared)


def test_a_file_cut_anywhere_is_named(tmp_path: Path) -> None:
    path = written(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    for cut in [0, 1, 7, 8, 9, 60, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"model\.safetensors"):
            open_checkpoint(tmp_path)
    path.write_bytes(whole + b"x")
    with pytest.raises(InputError, match="damaged"):
        open_checkpoint(tmp_path)


def test_a_lying_header_is_refused_without_allocating(tmp_path: Path) -> None:
    path = written(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    for length in (2**62, 2**32, len(whole)):
        path.write_bytes(struct.pack("<Q", length) + whole[8:])
        with pytest.raises(InputError, match=r"model\.safetensors"):
            open_checkpoint(tmp_path)
    huge = {"w": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 4]}}
    text = json.dumps(huge).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(InputError, match="'w'"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("shard", ["../part.safetensors", "/etc/passwd", "part.bin", 3, None])
def test_an_index_cannot_lead_outside_the_directory(tmp_path: Path, shard: object) -> None:
    sharded(tmp_path, **{"a.weight": shard})
    with pytest.raises(InputError, match="index"):
        open_checkpoint(tmp_path)


def test_an_index_that_does_not_fit_its_shards_is_named(tmp_path: Path) -> None:
    sharded(tmp_path, **{"a.weight": "gone.safetensors"})
    with pytest.raises(InputError, match=r"gone\.safetensors is missing"):
        open_checkpoint(tmp_path)
    sharded(tmp_path, other="part.safetensors")
    with pytest.raises(InputError, match="other is not in"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[1]")
    with pytest.raises(InputError, match="JSON object"):
        open_checkpoint(tmp_path)


def test_pickled_weights_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no model"):
        open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(InputError, match="never loaded"):
        open_checkpoint(tmp_path)


def test_a_missing_weight_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean 'a\.weight'"):
        open_checkpoint(written(tmp_path)).load("a.weigth")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\ufeff{}x"])
def test_a_bad_config_is_named(tmp_path: Path, text: str) -> None:
    written(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        open_checkpoint(tmp_path)


def test_a_full_disk_is_named_and_no_bug_of_ours() -> None:
    with pytest.raises(ResourceError, match="/dev/full"):
        save_tensors(Path("/dev/full"), {"a": torch.zeros(3)})


def test_equal_tensors_and_metadata_are_equal_bytes_that_the_library_reads(tmp_path: Path) -> None:
    names = ("f", "h", "b", "i", "e")
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.float32)
    values = {n: torch.arange(6).to(d).reshape(2, 3) for n, d in zip(names, dtypes, strict=True)}
    values["e"] = torch.zeros(0, 4)
    save_tensors(tmp_path / "a", values, {"x": "1", "y": "2"})
    save_tensors(tmp_path / "b", dict(reversed(values.items())), {"x": "1", "y": "2"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "x": "1", "y": "2"}
        for name, value in values.items():
            assert torch.equal(file.get_tensor(name), value)
