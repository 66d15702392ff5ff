"""What tests share: running the real program, and pinned packages that carry real models."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

LLM = [sys.executable, "-m", "llmtools"]


def run_llm(
    *args: str | Path,
    stdin: bytes = b"",
    check: bool = True,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[bytes]:
    """Run `llm ARGS` as a user would; `check` fails the test on a non-zero exit, showing stderr."""
    done = subprocess.run(
        [*LLM, *map(str, args)],
        input=stdin,
        capture_output=True,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        timeout=timeout,
    )
    if check and done.returncode != 0:
        pytest.fail(
            f"llm {' '.join(map(str, args))}: exit {done.returncode}\n{done.stderr.decode()}"
        )
    return done


def assert_user_error(
    done: subprocess.CompletedProcess[bytes], exit_code: int, *mentions: str
) -> None:
    """The run ended with this exit code and one message that names all of `mentions`."""
    message = done.stderr.decode()
    assert done.returncode == exit_code, f"exit {done.returncode}: {message}"
    assert "Traceback" not in message, message
    for word in mentions:
        assert word in message, f"{word!r} not in: {message}"


def cache_dir() -> Path:
    """Where downloaded test packages live, outside the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "llmtools" / "test-packages"


def fetch_package(requirement: str, sha256: str, *, sdist_folder: str | None = None) -> Path:
    """Download one package by pinned version and hash, unpacked in the cache; skips when offline.

    A wheel is unpacked whole; with `sdist_folder` the source archive is taken and only the files
    below that folder of it are kept.
    """
    name = requirement.replace("==", "-")
    target = cache_dir() / f"{name}-{sha256[:12]}"
    if target.is_dir():
        return target
    download = cache_dir() / f".download-{os.getpid()}"
    download.mkdir(parents=True, exist_ok=True)
    kind = [] if sdist_folder is None else ["--no-binary", requirement.split("==")[0]]
    command = ["download", "-q", "--no-deps", *kind, "-d", str(download), requirement]
    done = subprocess.run([sys.executable, "-m", "pip", *command], capture_output=True, text=True)
    files = list(download.glob("*.whl" if sdist_folder is None else "*.tar.gz"))
    if done.returncode != 0 or not files:
        lines = done.stderr.strip().splitlines() or ["no such file"]
        pytest.skip(f"network: the package registry does not serve {requirement}: {lines[-1]}")
    digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert digest == sha256, f"{requirement}: sha256 {digest}, pinned {sha256}"
    unpacked = cache_dir() / f".unpack-{os.getpid()}"
    if sdist_folder is None:
        with zipfile.ZipFile(files[0]) as archive:
            archive.extractall(unpacked)
    else:
        with tarfile.open(files[0]) as archive:
            below = f"{files[0].name.removesuffix('.tar.gz')}/{sdist_folder}/"
            members = [m for m in archive.getmembers() if m.name.startswith(below)]
            archive.extractall(unpacked, members, filter="data")
        unpacked = unpacked / below
    files[0].unlink()
    download.rmdir()
    try:
        unpacked.rename(target)
    except OSError:
        # Another test process was faster; its copy is the same.
        pass
    return target


def fetch_npm(package: str, version: str, sha256: str) -> Path:
    """Download one npm package by version and hash, unpacked in the cache; skips when offline."""
    target = cache_dir() / f"npm-{package.replace('/', '-')}-{version}-{sha256[:12]}"
    if target.is_dir():
        return target / "package"
    download = cache_dir() / f".npm-{os.getpid()}"
    download.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", "--silent", f"{package}@{version}"]
    try:
        done = subprocess.run(command, cwd=download, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip(f"npm is not installed, so {package} cannot be fetched")
    files = list(download.glob("*.tgz"))
    if done.returncode != 0 or not files:
        pytest.skip(f"network: the package registry does not serve {package}@{version}")
    digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert digest == sha256, f"{package}@{version}: sha256 {digest}, pinned {sha256}"
    with tarfile.open(files[0]) as archive:
        archive.extractall(download, filter="data")
    files[0].unlink()
    try:
        download.rename(target)
    except OSError:
        # Another test process was faster; its copy is the same.
        pass
    return target / "package"
