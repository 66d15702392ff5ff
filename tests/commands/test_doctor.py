"""`llm doctor` names versions, devices, extras and other programs called llm."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path

import pytest

from llmtools.commands import doctor
from support import assert_user_error, run_llm


def script(folder: Path, text: str) -> Path:
    folder.mkdir()
    path = folder / "llm"
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_healthy_installation_is_described(tmp_path: Path) -> None:
    other = script(tmp_path / "other", "#!/usr/bin/python3\nfrom llm.cli import cli\n")
    ours = script(tmp_path / "ours", "#!/usr/bin/python3\nfrom llmtools.cli import main\n")
    path = os.pathsep.join([str(other.parent), str(ours.parent), str(other.parent)])
    env = {"PATH": path, "XDG_CACHE_HOME": str(tmp_path)}
    report = json.loads(run_llm("doctor", "--json", env=env).stdout)
    assert report["problems"] == []
    assert report["packages"]["torch"]["ok"] and report["packages"]["torch"]["version"]
    assert report["devices"][0]["name"] == "cpu"
    assert report["llm_on_path"] == [
        {"path": str(other.resolve()), "is_llmtools": False},
        {"path": str(ours.resolve()), "is_llmtools": True},
    ]
    assert report["cache"] == {"path": str(tmp_path / "llmtools"), "writable": True}
    text = run_llm("doctor", env=env).stdout.decode()
    assert "ANOTHER PROGRAM" in text and "starts another program here" in text
    assert "numba" in text


def test_a_cache_that_cannot_be_written_ends_with_exit_4(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    env = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    assert_user_error(run_llm("doctor", check=False, env=env), 4, "cache", "cannot be written")


def test_missing_and_old_packages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = [
        "torch>=999",
        "no-such-package>=1",
        'only-on-mars>=1; sys_platform == "mars"',
        "numpy",
        'no-such-extra>=2; extra == "fancy"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: needs)
    required, extras = doctor._packages()
    assert {name: row["ok"] for name, row in required.items()} == {
        "torch": False,
        "no-such-package": False,
        "numpy": True,
    }
    assert required["no-such-package"]["version"] is None
    assert extras["fancy"]["missing"] == ["no-such-extra"]
    assert extras["fancy"]["install"] == "pip install 'llmtools-cli[fancy]'"


@pytest.mark.parametrize(
    ("installed", "minimum", "enough"),
    [("2.13.0+cpu", "2.13", True), ("2.9", "2.13", False), ("3", "3.0.0", True), ("", "1", False)],
)
def test_versions_compare_by_number(installed: str, minimum: str, enough: bool) -> None:
    assert (doctor._numbers(installed) >= doctor._numbers(minimum)) is enough
