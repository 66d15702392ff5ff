"""What a MODEL argument may stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtools.errors import InputError
from llmtools.formats.model_path import resolve_model


def model_dir(path: Path, config: str = "config.json") -> Path:
    path.mkdir(parents=True)
    (path / config).write_text("{}")
    return path


def test_directories_files_and_runs_resolve(tmp_path: Path) -> None:
    plain = model_dir(tmp_path / "model")
    adapter = model_dir(tmp_path / "adapter", "adapter_config.json")
    file = tmp_path / "model.bin"
    file.write_bytes(b"GGUF rest")
    model_dir(tmp_path / "run" / "step-000100")
    step = model_dir(tmp_path / "run" / "step-000200")
    (tmp_path / "run" / "latest").write_text("step-000200\n")
    for path in (plain, adapter, file):
        assert resolve_model(path) == path
    assert resolve_model(str(tmp_path / "run")) == step


@pytest.mark.parametrize("name", ["..", "../model", "/etc", "", "step-000300"])
def test_a_bad_latest_is_an_error_not_a_way_out(tmp_path: Path, name: str) -> None:
    model_dir(tmp_path / "model")
    model_dir(tmp_path / "run" / "step-000100")
    (tmp_path / "run" / "latest").write_text(name)
    with pytest.raises(InputError, match="latest"):
        resolve_model(tmp_path / "run")


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "run" / "step-000100").mkdir(parents=True)
    for path, reason in [
        (tmp_path / "absent", "no such model"),
        (tmp_path / "a.txt", "not a model"),
        (tmp_path, "no config.json"),
        (tmp_path / "run", "without a finished checkpoint"),
    ]:
        with pytest.raises(InputError, match=reason):
            resolve_model(path)
