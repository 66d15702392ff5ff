"""Responses of both endpoints: whole, and as server-sent events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
from starlette.responses import StreamingResponse

from llmtools.engine.request import Completion
from llmtools.errors import LLMToolsError
from llmtools.server.generation import Generation
from llmtools.server.schema import APIError, add_usage


class CompletionEvents:
    """Objects of /v1/completions."""

    prefix = "cmpl-"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, model: str, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._head = {
            "id": self.prefix + uuid.uuid4().hex,
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, completions: list[Completion]) -> dict[str, Any]:
        """The response without streaming."""
        return {
            **self._head,
            "object": self.whole_object,
            "choices": [
                self._choice(number, done.text, done.finish_reason)
                for number, done in enumerate(completions)
            ],
            "usage": add_usage(completions),
        }

    async def stream(self, generation: Generation) -> AsyncIterator[bytes]:
        """The events of a streamed response; a fault on the way is its last."""
        completions = []
        started: set[int] = set()
        try:
            async for number, output in generation.outputs():
                if number not in started:
                    started.add(number)
                    for choice in self._opening(number):
                        yield self._event([choice])
                if output.text:
                    yield self._event([self._piece(number, output.text)])
                if output.completion is not None:
                    completions.append(output.completion)
                    yield self._event([self._last(number, output.completion.finish_reason)])
        except LLMToolsError as fault:
            yield _data(APIError(500, str(fault)).to_json())
        else:
            if self._include_usage:
                yield self._event([], add_usage(completions))
        yield b"data: [DONE]\n\n"

    def _event(self, choices: list[Any], usage: dict[str, int] | None = None) -> bytes:
        value = {**self._head, "object": self.chunk_object, "choices": choices}
        # Where the client asked for usage, every chunk has the key and the last the counts.
        return _data({**value, "usage": usage} if self._include_usage else value)

    def _choice(self, number: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": number, "text": text, "logprobs": None, "finish_reason": reason}

    def _opening(self, number: int) -> list[dict[str, Any]]:
        return []

    def _piece(self, number: int, text: str) -> dict[str, Any]:
        return self._choice(number, text, None)

    def _last(self, number: int, reason: str) -> dict[str, Any]:
        return self._choice(number, "", reason)


class ChatEvents(CompletionEvents):
    """Objects of /v1/chat/completions."""

    prefix = "chatcmpl-"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def _choice(self, number: int, text: str, reason: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        return {"index": number, "message": message, "logprobs": None, "finish_reason": reason}

    def _opening(self, number: int) -> list[dict[str, Any]]:
        return [_delta(number, {"role": "assistant", "content": ""}, None)]

    def _piece(self, number: int, text: str) -> dict[str, Any]:
        return _delta(number, {"content": text}, None)

    def _last(self, number: int, reason: str) -> dict[str, Any]:
        return _delta(number, {}, reason)


def _delta(number: int, delta: dict[str, str], reason: str | None) -> dict[str, Any]:
    return {"index": number, "delta": delta, "logprobs": None, "finish_reason": reason}


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


class EventStream(StreamingResponse):
    """Server-sent events; `on_end` runs however the response ends, a lost client included.

    The stream's own clean-up would wait for the garbage collector when the client leaves while
    nothing is being generated.
    """

    def __init__(self, events: AsyncIterator[bytes], *, on_end: Callable[[], None]) -> None:
        super().__init__(
            events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
        self._on_end = on_end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()
