"""The OpenAI HTTP API of one model, as a FastAPI application."""

from __future__ import annotations

import asyncio
import hmac
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from llmtools.engine.engine import DoesNotFit
from llmtools.engine.load import LoadedModel
from llmtools.engine.prompt import encode_prompt
from llmtools.errors import InputError, LLMToolsError
from llmtools.server.events import ChatEvents, CompletionEvents, EventStream
from llmtools.server.generation import ClientLeft, Generation, unless_client_leaves
from llmtools.server.metrics import CLIENT_LEFT, Metrics, MetricsMiddleware
from llmtools.server.openapi import document
from llmtools.server.patience import BODY_SECONDS
from llmtools.server.schema import (
    MAX_PROMPTS,
    APIError,
    ChatFields,
    CompletionFields,
    GenerationFields,
    parse_body,
)
from llmtools.server.worker import Worker

MAX_BODY_BYTES = 8 << 20
# What OpenAI's API takes where /v1/completions names no limit; an answer in a chat has none.
COMPLETION_MAX_TOKENS = 16
STATUS_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "5"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What the endpoints work with. name: the model's id in the API."""

    name: str
    model: LoadedModel
    worker: Worker
    metrics: Metrics
    api_keys: Sequence[str]
    started_s: int

    def check_model(self, name: str | None) -> None:
        if name is not None and name != self.name:
            message = f"no model {name!r} here; this server has {self.name!r}"
            raise APIError(404, message, param="model", code="model_not_found")

    async def start(
        self,
        fields: GenerationFields,
        prompts: Sequence[Any],
        default_max_tokens: int | None,
    ) -> Generation:
        """Check and queue the prompts of one HTTP request; raises before any of them runs."""
        self.check_model(fields.model)
        if fields.stream_options is not None and not fields.stream:
            raise APIError(400, "stream_options needs stream=true", param="stream_options")
        if not self.worker.is_healthy:
            raise APIError(503, "the engine has stopped")
        if self.worker.is_full:
            raise APIError(503, "too many requests are waiting; try again later")
        settings = fields.settings()

        def encode() -> list[Any]:
            # Token ids need no encoding.
            return [p if _is_ids(p) else encode_prompt(self.model.tokenizer, p) for p in prompts]

        try:
            requests = [
                self.model.request(uuid.uuid4().hex, ids, settings, default_max_tokens)
                for ids in await asyncio.to_thread(encode)
            ]
        except LLMToolsError as fault:
            code = "context_length_exceeded" if isinstance(fault, DoesNotFit) else None
            raise APIError(400, str(fault), code=code) from fault
        return Generation(self.worker, requests)


def _is_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(isinstance(id, int) for id in prompt)


def create_app(service: Service) -> FastAPI:
    """The application; the service's worker must be running while it serves."""
    app = FastAPI(title="llm serve", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(MetricsMiddleware, metrics=service.metrics)
    _add_error_handlers(app)

    @app.get("/health")
    async def health() -> JSONResponse:
        if not service.worker.is_healthy:
            return JSONResponse({"status": "the engine has stopped"}, 503)
        return JSONResponse({"status": "ok", "model": service.name})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/openapi.json")
    async def openapi() -> JSONResponse:
        return JSONResponse(document(service.name))

    app.include_router(_api(service))
    return app


def _api(service: Service) -> APIRouter:
    def check_key(authorization: Annotated[str, Header()] = "") -> None:
        given = authorization.removeprefix("Bearer ").encode()
        # No early exit: the time taken says nothing about the keys.
        matches = [hmac.compare_digest(given, key.encode()) for key in service.api_keys]
        if service.api_keys and not any(matches):
            message = "a valid API key is needed: Authorization: Bearer KEY"
            raise APIError(401, message, code="invalid_api_key")

    api = APIRouter(prefix="/v1", dependencies=[Depends(check_key)])
    card = {
        "id": service.name,
        "object": "model",
        "created": service.started_s,
        "owned_by": "llmtools",
        "max_model_len": service.model.engine.config.max_position_embeddings,
    }

    @api.get("/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @api.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return card

    @api.post("/completions")
    async def completions(http: Request) -> Response:
        fields = parse_body(CompletionFields, await _read_body(http))
        prompts = fields.prompts()
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            message = f"{len(prompts)} prompts; a request takes 1 to {MAX_PROMPTS}"
            raise APIError(400, message, param="prompt")
        generation = await service.start(fields, prompts, COMPLETION_MAX_TOKENS)
        events = CompletionEvents(service.name, fields.includes_usage)
        return await _respond(http, fields, generation, events)

    @api.post("/chat/completions")
    async def chat(http: Request) -> Response:
        fields = parse_body(ChatFields, await _read_body(http))
        try:
            prompt = fields.prompt()
        except InputError as fault:
            raise APIError(400, str(fault), param="messages") from fault
        generation = await service.start(fields, [prompt], None)
        return await _respond(
            http, fields, generation, ChatEvents(service.name, fields.includes_usage)
        )

    return api


async def _respond(
    http: Request, fields: GenerationFields, generation: Generation, events: CompletionEvents
) -> Response:
    if fields.stream:
        return EventStream(events.stream(generation), on_end=generation.close)
    try:
        completions = await unless_client_leaves(http, generation.complete())
    except LLMToolsError as fault:
        raise APIError(500, str(fault)) from fault
    finally:
        generation.close()
    return JSONResponse(events.whole(completions))


async def _read_body(http: Request) -> bytes:
    too_large = APIError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    announced = http.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in http.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError as fault:
        raise APIError(408, f"the body took longer than {BODY_SECONDS:g} s") from fault
    except ClientDisconnect as fault:
        raise ClientLeft from fault
    return bytes(body)


def _add_error_handlers(app: FastAPI) -> None:
    async def answer(http: Request, fault: Exception) -> Response:
        if isinstance(fault, ClientLeft):
            return Response(status_code=CLIENT_LEFT)
        headers: dict[str, str] = {}
        if isinstance(fault, HTTPException):
            headers |= fault.headers or {}
            fault = APIError(fault.status_code, f"{fault.detail}: {http.method} {http.url.path}")
        elif not isinstance(fault, APIError):
            fault = APIError(500, f"internal error: {type(fault).__name__}: {fault}")
        headers |= STATUS_HEADERS.get(fault.status, {})
        return JSONResponse(fault.to_json(), fault.status, headers)

    for kind in (APIError, ClientLeft, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
