"""The workshop and the server of preloaded runs, one of each for all fault tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.preloaded import Preloaded
from faults.workshop import build


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="session")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preloaded]:
    server = Preloaded(tmp_path_factory.mktemp("preloaded"))
    yield server
    server.close()
