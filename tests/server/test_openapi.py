"""The OpenAPI document and the server: schemathesis sends what it allows and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from llmtools.engine.load import load_engine
from llmtools.server.app import create_app
from llmtools.server.openapi import REASONS, document
from llmtools.server.serve import make_service
from tiny_llama import save_tiny_llama

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    model = save_tiny_llama(tmp_path_factory.mktemp("openapi") / "tiny")
    service = make_service(load_engine(model, device="cpu"), "tiny")
    service.worker.start()
    yield service
    service.worker.stop()


@pytest.fixture(scope="module")
def schema(service: Any) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(service))


def call_all(schema: Any, mode: GenerationMode, examples: int) -> dict[str, set[int]]:
    """Send generated requests to every operation; returns the statuses that came back."""
    operations = [result.ok() for result in schema.get_all_operations()]
    return {f"{o.method.upper()} {o.path}": call(o, mode, examples) for o in operations}


def call(operation: Any, mode: GenerationMode, examples: int) -> set[int]:
    statuses: set[int] = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Any) -> None:
        if isinstance(case.body, dict) and mode.is_positive:
            # A stream is no JSON; its frames are tested in test_http_api.py.
            case.body["stream"] = False
            case.body.pop("stream_options", None)
        response = case.call()
        statuses.add(response.status_code)
        checks = CHECKS if mode.is_positive else [*CHECKS, negative_data_rejection]
        case.validate_response(response, checks=checks)

    try:
        send()
    except Unsatisfiable:
        # What takes no input cannot be given wrong input.
        assert not mode.is_positive
    return statuses


def check_all(schema: Any, examples: int) -> None:
    good = call_all(schema, GenerationMode.POSITIVE, examples)
    assert all(200 in good[path] for path in ("GET /health", "GET /v1/models"))
    bad = call_all(schema, GenerationMode.NEGATIVE, examples)
    assert bad["POST /v1/completions"] >= {400}


@pytest.mark.slow
def test_the_server_does_what_its_document_says(schema: Any) -> None:
    check_all(schema, 25)


@pytest.mark.soak
def test_the_server_does_what_its_document_says_thousands_of_times(schema: Any) -> None:
    check_all(schema, 1500)


def test_every_route_is_in_the_document(service: Any) -> None:
    # FastAPI's own list of its routes.
    routes = {
        (path, method.upper())
        for path, methods in create_app(service).openapi()["paths"].items()
        for method in methods
        if path != "/openapi.json"
    }
    described = {
        (path, method.upper())
        for path, methods in document("tiny")["paths"].items()
        for method in methods
    }
    assert described == routes


def test_every_documented_status_is_one_that_the_server_gives() -> None:
    tests = "".join(
        (Path(__file__).parent / name).read_text()
        for name in ("test_http_api.py", "test_server_faults.py")
    )
    for status in REASONS:
        assert str(status) in tests, status
