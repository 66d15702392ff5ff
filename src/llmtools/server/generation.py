"""Outputs of the worker as the event loop sees them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request as HTTPRequest

from llmtools.engine.request import Completion, Output, Request
from llmtools.errors import LLMToolsError
from llmtools.server.worker import Worker

T = TypeVar("T")


class Generation:
    """Some requests on their way; `close` frees the places of those that have not finished."""

    def __init__(self, worker: Worker, requests: Sequence[Request]) -> None:
        self._worker = worker
        self._number = {request.id: number for number, request in enumerate(requests)}
        self._outputs: asyncio.Queue[Output | LLMToolsError] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        for request in requests:
            worker.submit(request, self._deliver)

    def _deliver(self, output: Output | LLMToolsError) -> None:
        # Called in the worker's thread; asyncio's queues belong to the event loop's, which is
        # closed before the worker's last step ends when a second Ctrl-C stops the server.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._outputs.put_nowait, output)

    async def outputs(self) -> AsyncIterator[tuple[int, Output]]:
        """Each output with the number of its request; raises what the engine raised."""
        left = len(self._number)
        while left:
            output = await self._outputs.get()
            if isinstance(output, LLMToolsError):
                raise output
            left -= output.completion is not None
            yield self._number[output.request_id], output

    async def complete(self) -> list[Completion]:
        """All completions, in the order of the requests."""
        done = {n: o.completion async for n, o in self.outputs() if o.completion is not None}
        return [done[number] for number in range(len(done))]

    def close(self) -> None:
        for request_id in self._number:
            self._worker.abort(request_id)


class ClientLeft(Exception):
    """Nobody is there to read a response."""


async def unless_client_leaves(http: HTTPRequest, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled with ClientLeft when the connection closes.

    The request's body must have been read.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_until_disconnect(http))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        working.cancel()
        watching.cancel()


async def _until_disconnect(http: HTTPRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
