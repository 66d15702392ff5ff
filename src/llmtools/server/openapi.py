"""The OpenAPI document: what the endpoints take and answer, from the same classes that check it.

Written out here and not left to FastAPI, because bodies are read by hand (size and time limits) and
because fields in the value that asks for nothing are accepted and others of their name are not.
"""

from __future__ import annotations

from typing import Any

from llmtools import __version__
from llmtools.server.schema import MAX_PROMPTS, NEUTRAL, ChatFields, CompletionFields

OPENAPI = "3.1.0"
_REF = "#/components/schemas/{model}"

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": ["invalid_request_error", "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
USAGE = {
    "type": "object",
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "properties": {
        name: {"type": "integer", "minimum": 0}
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    },
}
MODEL = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by", "max_model_len"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
        "max_model_len": {"type": "integer"},
    },
}
REASONS = {
    400: "The request is wrong; the message names every field.",
    401: "No valid API key, where the server asks for one.",
    404: "No such model or path.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    500: "A fault of the model or of the server.",
    503: "Too many requests wait, or the engine has stopped; see Retry-After.",
}


def document(name: str) -> dict[str, Any]:
    """The whole document of a server whose model is called `name`."""
    generating = (400, 401, 404, 408, 413, 500, 503)
    return {
        "openapi": OPENAPI,
        "info": {
            "title": "llm serve",
            "version": __version__,
            "description": f"The OpenAI API of one model, {name!r}.",
        },
        "paths": {
            "/health": {"get": _get("Whether the engine runs.", HEALTH, bad={503: HEALTH})},
            "/metrics": {
                "get": {
                    "summary": "Counters and gauges for Prometheus.",
                    "responses": {"200": _content("text/plain", {"type": "string"})},
                }
            },
            "/v1/models": {
                "get": _get("The model.", _list_of(_ref("Model")), errors=(401,), is_guarded=True)
            },
            "/v1/models/{name}": {
                "get": {
                    **_get(
                        "The model, by name.", _ref("Model"), errors=(401, 404), is_guarded=True
                    ),
                    "parameters": [
                        {
                            "name": "name",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string"},
                            "example": name,
                        }
                    ],
                }
            },
            "/v1/completions": {"post": _post("Continue texts.", "Completion", generating)},
            "/v1/chat/completions": {"post": _post("Answer a conversation.", "Chat", generating)},
        },
        "components": {
            "schemas": {
                **_requests(),
                "CompletionResponse": _response("text_completion", {"text": {"type": "string"}}),
                "ChatResponse": _response("chat.completion", {"message": MESSAGE}),
                "Model": MODEL,
                "Error": ERROR,
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


HEALTH = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"type": "string"}, "model": {"type": "string"}},
}
MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"const": "assistant"}, "content": {"type": "string"}},
}


def _requests() -> dict[str, Any]:
    """The bodies, with the fields that are accepted only where they ask for nothing."""
    found: dict[str, Any] = {}
    for name, fields in (("CompletionRequest", CompletionFields), ("ChatRequest", ChatFields)):
        schema = fields.model_json_schema(ref_template=_REF)
        found |= schema.pop("$defs", {})
        schema["properties"] |= {
            key: {"enum": list(values), "description": "Accepted where it asks for nothing."}
            for key, values in NEUTRAL.items()
        }
        found[name] = schema
    prompt = found["CompletionRequest"]["properties"]["prompt"]
    for kind in prompt["anyOf"]:
        if kind.get("type") == "array":
            kind["minItems"] = 1
            if kind["items"].get("type") != "integer":
                kind["maxItems"] = MAX_PROMPTS
    return found


def _response(kind: str, own: dict[str, Any]) -> dict[str, Any]:
    choice = {
        "type": "object",
        "required": ["index", "finish_reason", *own],
        "properties": {
            "index": {"type": "integer", "minimum": 0},
            "finish_reason": {"enum": ["stop", "length"]},
            "logprobs": {"type": "null"},
            **own,
        },
    }
    return {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": kind},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "items": choice, "minItems": 1},
            "usage": USAGE,
        },
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(model=name)}


def _list_of(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["object", "data"],
        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": item}},
    }


def _content(kind: str, schema: dict[str, Any], text: str = "Done.") -> dict[str, Any]:
    return {"description": text, "content": {kind: {"schema": schema}}}


def _get(
    summary: str,
    schema: dict[str, Any],
    *,
    errors: tuple[int, ...] = (),
    bad: dict[int, dict[str, Any]] | None = None,
    is_guarded: bool = False,
) -> dict[str, Any]:
    answers = {str(s): _content("application/json", v, REASONS[s]) for s, v in (bad or {}).items()}
    return {
        "summary": summary,
        "responses": {"200": _content("application/json", schema), **answers, **_errors(errors)},
        **({"security": [{}, {"key": []}]} if is_guarded else {}),
    }


def _post(summary: str, name: str, errors: tuple[int, ...]) -> dict[str, Any]:
    good = _content("application/json", _ref(f"{name}Response"))
    # With stream=true: `data: {...}` events, each a piece of the response, then `data: [DONE]`.
    good["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "summary": summary,
        "security": [{}, {"key": []}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref(f"{name}Request")}},
        },
        "responses": {"200": good, **_errors(errors)},
    }


def _errors(statuses: tuple[int, ...]) -> dict[str, Any]:
    return {
        str(status): _content("application/json", _ref("Error"), REASONS[status])
        for status in statuses
    }
